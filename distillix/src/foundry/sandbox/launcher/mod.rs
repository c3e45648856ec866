//! The launcher: a process of our own program, started for one run.
//!
//! Why not fork the caller: its threads may hold the allocator's lock at that moment, its memory may hold gigabytes and
//! credentials, and a sample's first process would inherit them. A fresh process has one thread (so that a fork in it may
//! do anything), no secret, and can become another user and enter namespaces without anyone noticing.

mod confine;
mod init;
mod landlock;
mod namespaces;
mod root;
mod seccomp;
mod supervise;
mod tree;
mod user;

use super::protocol::{Report, Request};
use super::{Layer, Layers, Limits};
use nix::sys::signal::Signal;
use nix::unistd::{getppid, setsid};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

pub(super) use supervise::memory_reason;

/// Reads a request from stdin, does it, and writes a report to stdout.
pub(super) fn main() -> ExitCode {
    let report = serve().unwrap_or_else(Report::Failed);
    let written =
        serde_json::to_vec(&report).map_err(io::Error::from).and_then(|text| io::stdout().write_all(&text));
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the sample's side of the fork needs.
struct Sample<'a> {
    request: &'a Request,
    layers: Layers,
    /// `cgroup.procs` of the run's group, opened with the caller's rights.
    group: Option<File>,
    /// The threads that the sample's user has outside the sandbox, which its limit counts too.
    others: u64,
    stdin: File,
    stdout: PipeWriter,
    stderr: PipeWriter,
    /// The other end of the driver's file descriptor 3.
    channel: UnixStream,
    /// Where what happens before the interpreter starts is told.
    setup: PipeWriter,
    /// Where the first process of the namespace tells how the interpreter ended.
    status: PipeWriter,
}

/// The launcher's ends.
struct Ends {
    stdout: PipeReader,
    stderr: PipeReader,
    channel: UnixStream,
    setup: PipeReader,
    status: PipeReader,
}

fn serve() -> Result<Report, String> {
    let failed = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    close_inherited().map_err(failed("cannot close the files that the caller left open"))?;
    // No terminal, and no signals from one.
    let _ = setsid();
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(failed("cannot read the request"))?;
    let request: Request =
        serde_json::from_slice(&text).map_err(|e| format!("the request cannot be read: {e}"))?;
    let stdin = File::open("/dev/null").map_err(failed("/dev/null"))?;
    let mut layers = Layers::default();
    let group = join_group(&request, &mut layers);

    user::enter(&request, &mut layers)?;
    let others = if layers.holds(Layer::UserNamespace) { 0 } else { user::threads(&request) };
    namespaces::enter(&request, &mut layers);
    let io = (|| io::Result::Ok((pipe()?, pipe()?, pipe()?, pipe()?, UnixStream::pair()?)))();
    let (stdout, stderr, setup, status, channel) = io.map_err(failed("cannot make a pipe"))?;
    // Ends with the caller. Set after the change of user, which clears it; the caller may have ended before.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| e.to_string())?;
    if getppid().as_raw() as u32 != request.parent {
        return Err("the caller is gone".to_owned());
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| e.to_string())?;

    let pid_namespace = layers.holds(Layer::PidNamespace);
    let sample = Sample {
        request: &request,
        layers,
        group,
        others,
        stdin,
        stdout: stdout.1,
        stderr: stderr.1,
        channel: channel.1,
        setup: setup.1,
        status: status.1,
    };
    let ends =
        Ends { stdout: stdout.0, stderr: stderr.0, channel: channel.0, setup: setup.0, status: status.0 };
    let child = init::fork_off(sample, pid_namespace)?;
    supervise::run(&request, ends, child, pid_namespace)
}

/// Whatever the caller left open is not for the sample.
fn close_inherited() -> io::Result<()> {
    // SAFETY: closes descriptors that nothing in this process, which has just started, holds in a Rust value.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens the group's list of processes while this process still has the caller's rights.
fn join_group(request: &Request, layers: &mut Layers) -> Option<File> {
    let opened = request.cgroup.clone().and_then(|path| {
        let list = path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&list).map_err(|e| format!("{}: {e}", list.display()))
    });
    match opened {
        Ok(file) => {
            layers.hold(Layer::Cgroup, "limits memory and processes of the whole tree");
            Some(file)
        }
        Err(why) => {
            let Limits { processes, memory_bytes, .. } = request.limits;
            let instead = processes.saturating_mul(memory_bytes) >> 20;
            layers.miss(
                Layer::Cgroup,
                format!("{why}; instead: address space × processes ({instead} MiB), and a watch on the sum"),
            );
            None
        }
    }
}
