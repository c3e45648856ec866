//! The processes below this one, as `/proc` shows them: for the watch on their memory, and for ending them where there is no
//! pid namespace that does it.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Duration;

/// The descendants of this process at about this moment.
pub(super) fn descendants() -> Vec<i32> {
    let mut found = children(std::process::id() as i32);
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        for child in children(pid) {
            // A number that is used again while this goes on could close a circle.
            if !found.contains(&child) {
                found.push(child);
            }
        }
        at += 1;
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists: io::Result<Vec<String>> =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children"))).collect();
    match lists {
        Ok(lists) => {
            lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|n| n.parse().ok()).collect()
        }
        // A thread that ended meanwhile, or a kernel without these lists.
        Err(_) => children_by_parent(pid),
    }
}

fn children_by_parent(parent: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before it may hold anything, brackets too.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1).is_some_and(|p| p.parse() == Ok(parent))
    };
    pids.filter(is_child).collect()
}

/// The memory of `pids` together, in bytes; pages that several share count once.
pub(super) fn memory(pids: &[i32], at_least: u64) -> u64 {
    let resident = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * page_size())
    };
    let sum = pids.iter().filter_map(resident).sum();
    if sum < at_least {
        return sum;
    }
    // Only now the exact number, which takes the kernel far longer.
    let proportional = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    pids.iter().map(|pid| proportional(pid).or_else(|| resident(pid)).unwrap_or(0)).sum()
}

/// The disk space of files that `pids` hold open and that no folder names any more, in bytes.
pub(super) fn deleted_files(pids: &[i32]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let open = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten().flatten();
    let files = open.filter_map(|entry| fs::metadata(entry.path()).ok());
    let deleted = files.filter(|meta| meta.is_file() && meta.nlink() == 0);
    let by_file: HashMap<_, _> =
        deleted.map(|meta| ((meta.dev(), meta.ino()), meta.blocks() * 512)).collect();
    by_file.values().sum()
}

fn page_size() -> u64 {
    // SAFETY: sysconf only returns a number.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Ends every process below this one. Orphans come to this process (it is a subreaper), so once it has no child, none is left.
pub(super) fn end_all() {
    loop {
        let pids = descendants();
        // Stopped first: what forks while the list is walked would stay ahead of it.
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in &pids {
                let _ = kill(Pid::from_raw(*pid), signal);
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(status) if status.pid().is_some() => {}
                _ => break,
            }
        }
        sleep(Duration::from_millis(1));
    }
}
