//! The sample's file system: system folders and interpreter read-only, four devices, an empty temporary folder of bounded
//! size, and nothing else of the machine.

use super::super::protocol::Request;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, chown, geteuid, pivot_root};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The devices that programs expect and that lead nowhere.
pub(super) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"];

/// Enters a mount namespace and builds the file system in it. With `own_processes`, `/proc` shows those of this pid
/// namespace.
///
/// # Errors
/// Says what was not allowed. With `true`, the file system is half built and nothing may run; with `false`, it is as it was.
pub(super) fn enter(request: &Request, own_processes: bool) -> Result<String, (bool, String)> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| (false, format!("not allowed: {e}")))?;
    // From here on nothing that is mounted is seen outside.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| (false, format!("not allowed: {e}")))?;
    let new = request.folder.as_path();
    tmpfs(new, "size=256k,nr_inodes=512,mode=0755")
        .map_err(|e| (false, format!("no file system can be mounted: {e}")))?;
    let proc = build(new, request, own_processes).map_err(|(what, e)| {
        // Nothing has been entered yet: what was built goes, and the rest of the machine is where it was.
        let left = umount2(new, MntFlags::MNT_DETACH).is_err();
        (left, format!("{what}: {e}"))
    })?;
    let entered = (|| {
        chdir(new)?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")
    })();
    entered.map_err(|e| (true, format!("cannot enter the new root: {e}")))?;
    protect(Path::new("/"), false, libc::MOUNT_ATTR_RDONLY)
        .map_err(|e| (true, format!("cannot make the new root read-only: {e}")))?;
    let mib = request.limits.disk_bytes as f64 / (1 << 20) as f64;
    Ok(format!("system read-only, {mib:.1} MiB of /tmp{}", if proc { "" } else { ", no /proc" }))
}

type Failure = (String, io::Error);

/// Puts everything into the new root; returns whether there is a `/proc`.
fn build(new: &Path, request: &Request, own_processes: bool) -> Result<bool, Failure> {
    let place = |path: &Path| new.join(path.strip_prefix("/").unwrap_or(path));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| (format!("cannot show {}", path.display()), e)
    };
    fs::create_dir(new.join("dev")).map_err(at(Path::new("/dev")))?;
    for device in DEVICES.map(Path::new).into_iter().filter(|device| device.exists()) {
        let target = place(device);
        File::create(&target).map_err(at(device))?;
        bind(device, &target).map_err(at(device))?;
        protect(&target, false, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC).map_err(at(device))?;
    }
    // What programs write, shared memory included, is in one file system, which has the limit.
    let private = new.join(".private");
    (|| {
        fs::create_dir(&private)?;
        tmpfs(&private, &format!("size={},nr_inodes=4096,mode=0700", request.limits.disk_bytes))?;
        for (inner, target) in [("tmp", "tmp"), ("shm", "dev/shm")] {
            let inner = private.join(inner);
            fs::create_dir(&inner)?;
            if geteuid().is_root() {
                chown(&inner, Some(Uid::from_raw(request.user)), Some(Gid::from_raw(request.user)))?;
            }
            fs::create_dir(new.join(target))?;
            bind(&inner, &new.join(target))?;
        }
        umount2(&private, MntFlags::MNT_DETACH)?;
        fs::remove_dir(&private)
    })()
    .map_err(|e: io::Error| ("cannot make a temporary folder".to_owned(), e))?;
    // After the temporary folder: an interpreter may lie in the host's.
    for path in &request.readable {
        show(path, &place(path)).map_err(at(path))?;
    }
    fs::create_dir(new.join("proc")).map_err(at(Path::new("/proc")))?;
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        symlink(target, new.join("dev").join(name)).map_err(at(Path::new("/dev")))?;
    }
    Ok(own_processes && mount_proc(&new.join("proc")))
}

/// Containers that hide parts of their own `/proc` allow no new one. Programs rarely need it.
fn mount_proc(target: &Path) -> bool {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Processes alone, without what /proc tells about the machine; kernels before 5.8 do not know how.
    [Some("subset=pid"), None]
        .into_iter()
        .any(|options| mount(Some("proc"), target, Some("proc"), flags, options).is_ok())
}

/// Makes `path` visible at `target`: a link as a link, a folder or file as it is, read-only.
fn show(path: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = fs::symlink_metadata(path)?;
    if kind.is_symlink() {
        return symlink(fs::read_link(path)?, target);
    }
    if kind.is_dir() {
        fs::create_dir_all(target)?
    } else {
        drop(File::create(target)?)
    }
    bind(path, target)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    protect(target, true, attributes)
}

fn bind(path: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(path), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))?)
}

/// Adds attributes to a mount, and with `below` to those below it, keeping what it has (kernel 5.12 or newer).
fn protect(target: &Path, below: bool, attributes: u64) -> io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path is a C string and attr a mount_attr of the size that is told; the kernel reads both during the call only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &attr as *const libc::mount_attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
