//! A control group (version 2) for one run, where this user may make one.

use super::Limits;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
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
        // A group with processes in it cannot hand out memory limits below itself (the root can), so the usual place is beside it.
        let beside = own.parent().filter(|parent| parent.starts_with(&mount)).map(Path::to_owned);
        let mut why = String::new();
        for place in [Some(own), beside].into_iter().flatten() {
            match usable(&place) {
                Ok(()) => return Ok(Place(place)),
                Err(problem) => why = format!("{}: {problem}", place.display()),
            }
        }
        Err(why)
    }

    /// A new group with these limits.
    pub(super) fn create(&self, limits: &Limits) -> Result<Cgroup, String> {
        let group = Cgroup { path: new_group(&self.0)? };
        let set = |file: &str, value: String| {
            fs::write(group.path.join(file), value).map_err(|e| format!("cannot set {file}: {e}"))
        };
        set("memory.max", limits.memory_bytes.to_string())?;
        // The interpreter joins and is counted; the kernel counts threads, too.
        set("pids.max", limits.processes.to_string())?;
        // Not every kernel accounts for swap. Where there is some, the limit on memory would only move it there.
        if let Err(why) = set("memory.swap.max", "0".to_owned())
            && fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
        {
            return Err(why);
        }
        // Not every kernel ends a group as a whole; the limits hold without.
        let _ = set("memory.oom.group", "1".to_owned());
        Ok(group)
    }
}

/// Makes a group with a name that no other run has.
fn new_group(place: &Path) -> Result<PathBuf, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = place.join(format!("distillix-{}-{number}", std::process::id()));
    // A process that was killed may have had this number, and left its groups.
    let _ = fs::remove_dir(&path);
    fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    Ok(path)
}

/// The mount point of version 2 and the folder of this process's group in it.
fn locate(mountinfo: &str, cgroup: &str) -> Option<(PathBuf, PathBuf)> {
    let own = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        // What of the hierarchy is mounted here, and where.
        let (root, mount) = (fields.next()?, Path::new(fields.next()?));
        let below = own.strip_prefix(root).ok()?;
        // The group of a process outside its group namespace is told as `/../…`.
        let is_inside = below.components().all(|part| matches!(part, Component::Normal(_)));
        (right.split(' ').next() == Some("cgroup2") && is_inside)
            .then(|| (mount.to_owned(), mount.join(below)))
    })
}

/// Whether groups below `place` can limit memory and processes, and this user may make them. Where the place could hand the limits
/// out but nobody has asked it to, as in a tree that was just handed over to this user, it is asked to.
fn usable(place: &Path) -> Result<(), String> {
    let read = |file: &str| fs::read_to_string(place.join(file)).map_err(|e| format!("{file}: {e}"));
    let missing = |handed: &str| {
        ["memory", "pids"].into_iter().find(|name| !handed.split_whitespace().any(|other| other == *name))
    };
    if let Some(controller) = missing(&read("cgroup.subtree_control")?) {
        if missing(&read("cgroup.controllers")?).is_some() {
            return Err(format!("has no {controller} limits to hand to groups below it"));
        }
        fs::write(place.join("cgroup.subtree_control"), "+memory +pids").map_err(|e| {
            format!("hands no {controller} limits to groups below it, and does not begin to: {e}")
        })?;
    }
    fs::remove_dir(new_group(place)?).map_err(|e| e.to_string())
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
        assert_eq!(found.1, Path::new("/sys/fs/cgroup/unified/user.slice/session-1.scope"));
        assert_eq!(locate("33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", own), None);
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mount = |root: &str| format!("31 30 0:27 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
        let group = |root, own| locate(&mount(root), &format!("0::{own}\n")).map(|(_, own)| own);
        assert_eq!(group("/", "/"), Some("/sys/fs/cgroup".into()));
        assert_eq!(group("/docker/1", "/docker/1/main"), Some("/sys/fs/cgroup/main".into()));
        assert_eq!(group("/docker/1", "/other"), None);
        assert_eq!(group("/", "/../other"), None);
    }

    #[test]
    fn a_place_must_hand_out_both_limits() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("cgroup.subtree_control");
        assert!(usable(folder.path()).is_err());
        fs::write(&control, "cpu memory\n").unwrap();
        let controllers = folder.path().join("cgroup.controllers");
        fs::write(&controllers, "cpu memory\n").unwrap();
        assert!(usable(folder.path()).unwrap_err().contains("no pids limits"));
        fs::write(&controllers, "cpu memory pids\n").unwrap();
        usable(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "+memory +pids");
        fs::write(&control, "cpu memory pids\n").unwrap();
        usable(folder.path()).unwrap();
    }
}
