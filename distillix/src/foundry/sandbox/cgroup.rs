//! A control group (version 2) for one run, where this user may make one.

use super::Limits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// A group that is removed, with all that runs in it, when it is dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

/// The place below which this process may make groups, found once.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// Looks beside and below the group of this process for a place that hands out memory and process limits.
    ///
    /// # Errors
    /// Says why there is none.
    pub(super) fn find() -> Result<Place, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("no mountinfo: {e}"))?;
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|e| format!("no cgroup: {e}"))?;
        let (mount, own) = locate(&mounts, &groups).ok_or("no control groups of version 2 are mounted")?;
        let below = mount.join(own.strip_prefix("/").unwrap_or(&own));
        // A group with processes in it cannot hand out memory limits below itself, so the usual place is beside it.
        let beside = below.parent().filter(|p| p.starts_with(&mount)).map(Path::to_owned);
        let mut why = String::new();
        for place in [Some(below), beside].into_iter().flatten() {
            match usable(&place) {
                Ok(()) => return Ok(Place(place)),
                Err(problem) => why = format!("{}: {problem}", place.display()),
            }
        }
        Err(why)
    }

    /// A new group with these limits.
    pub(super) fn create(&self, limits: &Limits) -> Result<Cgroup, String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.0.join(format!("distillix-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        let group = Cgroup { path };
        let set = |file: &str, value: String| {
            fs::write(group.path.join(file), value).map_err(|e| format!("cannot set {file}: {e}"))
        };
        set("memory.max", limits.memory_bytes.to_string())?;
        // Two more: the first process of the namespace, and room for the one that joins.
        set("pids.max", (limits.processes + 2).to_string())?;
        // Not every kernel accounts for swap, or ends a group as a whole; the limits above hold without.
        let _ = set("memory.swap.max", "0".to_owned());
        let _ = set("memory.oom.group", "1".to_owned());
        Ok(group)
    }
}

/// The mount point of version 2 and the group of this process below it.
fn locate(mountinfo: &str, cgroup: &str) -> Option<(PathBuf, PathBuf)> {
    let mount = mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next() == Some("cgroup2")).then(|| left.split(' ').nth(4))?
    })?;
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((mount.into(), own.into()))
}

/// Whether groups below `place` can limit memory and processes, and this user may make them.
fn usable(place: &Path) -> Result<(), String> {
    let handed = fs::read_to_string(place.join("cgroup.subtree_control")).map_err(|e| e.to_string())?;
    for controller in ["memory", "pids"] {
        if !handed.split_whitespace().any(|c| c == controller) {
            return Err(format!("hands no {controller} limits to groups below it"));
        }
    }
    let trial = place.join(format!("distillix-{}-trial", std::process::id()));
    fs::create_dir(&trial).map_err(|e| format!("no group can be made: {e}"))?;
    fs::remove_dir(&trial).map_err(|e| e.to_string())
}

impl Cgroup {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel ended a process for the group's memory limit.
    pub(super) fn out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
    }

    /// The most memory the group held, in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.peak")).ok()?.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        // The group is busy until its last process is gone.
        for _ in 0..200 {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n\
            33 30 0:29 / /sys/fs/cgroup/memory rw shared:15 - cgroup cgroup rw,memory\n";
        let own = "4:memory:/user.slice\n0::/user.slice/session-1.scope\n";
        let found = locate(mounts, own).unwrap();
        assert_eq!(found.0, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.1, Path::new("/user.slice/session-1.scope"));
        assert_eq!(locate("33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", own), None);
    }

    #[test]
    fn a_place_must_hand_out_both_limits() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("cgroup.subtree_control");
        assert!(usable(folder.path()).is_err());
        fs::write(&control, "cpu memory\n").unwrap();
        assert!(usable(folder.path()).unwrap_err().contains("pids"));
        fs::write(&control, "cpu memory pids\n").unwrap();
        usable(folder.path()).unwrap();
    }
}
