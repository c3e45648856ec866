//! The first process of the sample's namespaces: builds the file system, starts the interpreter, and waits for it. When
//! it ends, the kernel ends everything in its pid namespace.

use super::super::{Layer, Layers};
use super::{Sample, confine, root};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::fd::AsFd;

/// What is told on the setup pipe before the interpreter starts, one JSON value a line. The last one counts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Setup {
    /// Everything is in place, and the interpreter is started next.
    Ready(Layers),
    /// What holds does not suffice.
    Refused(Layers),
    /// Something went wrong.
    Failed(String),
}

/// Starts the first process.
pub(super) fn fork_off(sample: Sample, pid_namespace: bool) -> Result<Pid, String> {
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => Ok(child),
        Ok(ForkResult::Child) => first_process(sample, pid_namespace),
        Err(e) => Err(format!("cannot fork: {e}")),
    }
}

fn first_process(mut sample: Sample, pid_namespace: bool) -> ! {
    if set_pdeathsig(Signal::SIGKILL).is_err() || launcher_is_gone(&sample) {
        exit(1);
    }
    let mut private = vec![sample.request.folder.clone()];
    if sample.request.without.contains(&Layer::MountNamespace) {
        sample.layers.miss(Layer::MountNamespace, "left out as asked");
    } else {
        match root::enter(sample.request, pid_namespace) {
            Ok(detail) => {
                sample.layers.hold(Layer::MountNamespace, detail);
                private = vec!["/tmp".into(), "/dev/shm".into()];
            }
            Err((false, why)) => sample.layers.miss(Layer::MountNamespace, why),
            Err((true, why)) => {
                confine::tell(&sample.setup, &Setup::Failed(why));
                exit(1)
            }
        }
    }
    // The sample may have the same user: it must not look into this process.
    let _ = set_dumpable(false);
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => confine::run(sample, private),
        Ok(ForkResult::Parent { child }) => {
            let Sample { setup, stdin, stdout, stderr, channel, mut status, .. } = sample;
            // The launcher waits for the ends of some, which are the sample's.
            drop((setup, stdin, stdout, stderr, channel));
            let raw = wait_for(child);
            let _ = status.write_all(&raw.to_le_bytes());
            exit(0)
        }
        Err(e) => {
            confine::tell(&sample.setup, &Setup::Failed(format!("cannot fork: {e}")));
            exit(1)
        }
    }
}

/// Nobody would end this process if its launcher ended before it asked for the signal.
fn launcher_is_gone(sample: &Sample) -> bool {
    let mut fds = [PollFd::new(sample.status.as_fd(), PollFlags::POLLOUT)];
    let told = poll(&mut fds, PollTimeout::ZERO);
    told.is_err() || fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR))
}

/// Waits for whatever ends, as process 1 must, until it is `child`; returns its raw status.
fn wait_for(child: Pid) -> i32 {
    loop {
        let mut status = 0;
        // SAFETY: status is a place for an int.
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
        if pid == child.as_raw() {
            return status;
        }
        if pid < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) {
            return 0x7f00;
        }
    }
}

/// Ends this copy of the launcher at once, without running what the original still has to.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
