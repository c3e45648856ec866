//! Root becomes nobody in particular; whoever it is enters a user namespace, if there may be one.

use super::super::protocol::Request;
use super::super::{Layer, Layers};
use super::init::exit;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, chown, fork, getegid, geteuid, setgroups, setresgid, setresuid};
use std::fs;

/// Makes this process an unprivileged user in a user namespace of its own.
///
/// Root that may not have an unprivileged user namespace stays root here, so that it can make the other namespaces, and the
/// sample alone changes its user ([`become_nobody`]).
pub(super) fn enter(request: &Request, layers: &mut Layers) -> Result<(), String> {
    let root = geteuid().is_root();
    if request.without.contains(&Layer::UnprivilegedUser) {
        layers.miss(Layer::UnprivilegedUser, "left out as asked");
        if root {
            layers.miss(Layer::UserNamespace, "left out with the unprivileged user");
            return Ok(());
        }
    } else if root {
        chown(&request.folder, Some(Uid::from_raw(request.user)), Some(Gid::from_raw(request.user)))
            .map_err(|e| format!("cannot give {} to the sample: {e}", request.folder.display()))?;
    } else {
        layers.hold(Layer::UnprivilegedUser, format!("user {}, group {}", geteuid(), getegid()));
    }
    if request.without.contains(&Layer::UserNamespace) {
        layers.miss(Layer::UserNamespace, "left out as asked");
        return Ok(());
    }
    // There is no way back from being another user or in another namespace, so a child tries it first.
    let user = root.then_some(request.user);
    if let Err(why) = trial(user) {
        layers.miss(Layer::UserNamespace, why);
        return Ok(());
    }
    enter_namespace(user)?;
    if root {
        layers.hold(Layer::UnprivilegedUser, format!("user {}, group {}", geteuid(), getegid()));
    }
    layers.hold(Layer::UserNamespace, format!("user {} alone", geteuid()));
    Ok(())
}

/// Becomes `user`, if this is root, and enters a user namespace in which the user is alone and keeps its number.
fn enter_namespace(user: Option<u32>) -> Result<(), String> {
    if let Some(user) = user {
        become_nobody(user)?;
        // The files of /proc/self belong to root otherwise, and the maps could not be written.
        set_dumpable(true).map_err(|e| e.to_string())?;
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("not allowed: {e}"))?;
    let map = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("cannot write {file}: {e}"))
    };
    // Without it an unprivileged process may not map its group. Kernels before 3.19 do not have it.
    let _ = map("setgroups", "deny".to_owned());
    map("uid_map", format!("{uid} {uid} 1"))?;
    map("gid_map", format!("{gid} {gid} 1"))
}

/// Gives up root for good: groups, group, user; and with them every capability.
pub(super) fn become_nobody(user: u32) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[]).map_err(|e| format!("cannot leave root's groups: {e}"))?;
    setresgid(gid, gid, gid).map_err(|e| format!("cannot become group {user}: {e}"))?;
    setresuid(uid, uid, uid).map_err(|e| format!("cannot become user {user}: {e}"))
}

/// Whether `user` may have namespaces that are of use: some systems hand out empty ones.
fn trial(user: Option<u32>) -> Result<(), String> {
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let private = || {
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            };
            let usable = enter_namespace(user).is_ok()
                && unshare(CloneFlags::CLONE_NEWNS).is_ok()
                && private().is_ok();
            exit(if usable { 0 } else { 1 })
        }
        Ok(ForkResult::Parent { child }) => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            _ => Err("not allowed to unprivileged users here".to_owned()),
        },
        Err(e) => Err(format!("cannot fork: {e}")),
    }
}

/// The threads of the sample's user on this machine. Outside a user namespace the limit on processes counts them too.
pub(super) fn threads(request: &Request) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let uid = if geteuid().is_root() { request.user } else { geteuid().as_raw() };
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let own = entries.flatten().filter(|entry| entry.metadata().is_ok_and(|m| m.uid() == uid));
    own.map(|entry| fs::read_dir(entry.path().join("task")).map_or(0, |tasks| tasks.count() as u64)).sum()
}
