//! The last steps before the interpreter, each of which cannot be undone: limits, user, Landlock, seccomp.

use super::super::protocol::Request;
use super::super::{Layer, Layers, Limits};
use super::init::{Setup, exit};
use super::{Sample, landlock, seccomp, user};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, execve, geteuid, setsid};
use std::convert::Infallible;
use std::ffi::CString;
use std::io::{PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DRIVER: &str = include_str!("../driver.py");

/// Tells the launcher something.
pub(super) fn tell(mut pipe: &PipeWriter, setup: &Setup) {
    let line = serde_json::to_string(setup).unwrap_or_default() + "\n";
    // The launcher treats silence as a failure.
    let _ = pipe.write_all(line.as_bytes());
}

/// Becomes the interpreter, or tells why not.
pub(super) fn run(mut sample: Sample, private: Vec<PathBuf>) -> ! {
    let Err(setup) = confine(&mut sample, &private);
    tell(&sample.setup, &setup);
    exit(1)
}

fn confine(sample: &mut Sample, private: &[PathBuf]) -> Result<Infallible, Setup> {
    let failed = |what: &str, e: nix::errno::Errno| Setup::Failed(format!("{what}: {e}"));
    let request = sample.request;
    let asked = |layer| !request.without.contains(&layer);
    if let Some(mut group) = sample.group.take()
        && let Err(e) = group.write_all(b"0")
    {
        sample.layers.miss(Layer::Cgroup, format!("cannot join it: {e}"));
    }
    let _ = setsid();
    reset_signals().map_err(|e| failed("signals", e))?;
    take_descriptors(sample).map_err(|e| Setup::Failed(format!("file descriptors: {e}")))?;
    umask(Mode::from_bits_truncate(0o077));
    let home = private.first().map_or(Path::new("/"), PathBuf::as_path);
    chdir(home).map_err(|e| failed("the temporary folder", e))?;

    let layers = &mut sample.layers;
    if asked(Layer::ResourceLimits) {
        limit(&request.limits, sample.others).map_err(|e| failed("resource limits", e))?;
        layers.hold(Layer::ResourceLimits, "memory, processor time, processes, files, of each process");
    } else {
        layers.miss(Layer::ResourceLimits, "left out as asked");
    }
    if asked(Layer::UnprivilegedUser) {
        drop_capabilities(layers, request).map_err(Setup::Failed)?;
    }
    // Asked for after the change of user, which clears it.
    set_pdeathsig(Signal::SIGKILL).map_err(|e| failed("pdeathsig", e))?;
    if !asked(Layer::NoNewPrivileges) {
        layers.miss(Layer::NoNewPrivileges, "left out as asked");
    } else {
        set_no_new_privs().map_err(|e| failed("no_new_privs", e))?;
        layers.hold(Layer::NoNewPrivileges, "no program gives privileges");
    }
    let mut signals_apart = layers.holds(Layer::PidNamespace);
    if !asked(Layer::Landlock) {
        layers.miss(Layer::Landlock, "left out as asked");
    } else {
        match landlock::restrict(request, private) {
            Ok(enforced) => {
                signals_apart |= enforced.signals;
                layers.hold(Layer::Landlock, enforced.detail);
            }
            Err(why) => layers.miss(Layer::Landlock, why),
        }
    }

    let arguments = arguments(request).map_err(Setup::Failed)?;
    let environment = environment(home).map_err(Setup::Failed)?;
    // Everything but 0 to 3 closes when the interpreter starts.
    // SAFETY: marks descriptors; closes none.
    let closed = unsafe { libc::close_range(4, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    nix::errno::Errno::result(closed).map_err(|e| failed("cannot close the launcher's files", e))?;
    if !asked(Layer::Seccomp) {
        layers.miss(Layer::Seccomp, "left out as asked");
    } else {
        let policy = seccomp::Policy {
            unix_sockets: layers.holds(Layer::NetworkNamespace) && layers.holds(Layer::MountNamespace),
            signals_apart,
            own_files: layers.holds(Layer::MountNamespace),
            memory_counted: layers.holds(Layer::Cgroup),
        };
        match seccomp::apply(policy) {
            Ok(detail) => layers.hold(Layer::Seccomp, detail),
            Err(why) => layers.miss(Layer::Seccomp, why),
        }
    }
    if !layers.lacking().is_empty() && !request.allow_missing {
        return Err(Setup::Refused(std::mem::take(layers)));
    }
    tell(&sample.setup, &Setup::Ready(layers.clone()));
    let Err(e) = execve(&arguments[0], &arguments, &environment);
    Err(failed(&format!("cannot start {}", request.python.display()), e))
}

/// Signals as a program expects them: none ignored, none blocked.
fn reset_signals() -> nix::Result<()> {
    for s in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: sets the default action, not a handler.
        unsafe { signal(s, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Puts stdin, stdout, stderr and the driver's channel at 0 to 3.
fn take_descriptors(sample: &Sample) -> std::io::Result<()> {
    let from = [
        sample.stdin.as_raw_fd(),
        sample.stdout.as_raw_fd(),
        sample.stderr.as_raw_fd(),
        sample.channel.as_raw_fd(),
    ];
    let checked = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) };
    // First out of the way: one of them may be where another has to go. The setup pipe may, too.
    let mut aside = [0; 4];
    for (to, from) in aside.iter_mut().zip(from) {
        // SAFETY: makes a new descriptor of one that sample holds.
        *to = checked(unsafe { libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 16) })?;
    }
    debug_assert!(sample.setup.as_raw_fd() > 3);
    for (to, from) in (0..).zip(aside) {
        // SAFETY: 0 to 2 are no Rust value's own in this process, which only writes to `setup` from here on; 3 is one of
        // the descriptors copied above, whose values this process never drops: it becomes the interpreter or exits.
        checked(unsafe { libc::dup2(from, to) })?;
    }
    Ok(())
}

fn limit(limits: &Limits, others: u64) -> nix::Result<()> {
    // The first process of the namespace and the launcher count where they are of the same user.
    let own = if geteuid().is_root() { 0 } else { 2 };
    let processes = others.saturating_add(limits.processes).saturating_add(own);
    let cpu = limits.cpu_seconds;
    for (resource, soft, hard) in [
        (Resource::RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        // The first is a signal that Python dies of; the second cannot be caught.
        (Resource::RLIMIT_CPU, cpu, cpu.saturating_add(1)),
        (Resource::RLIMIT_NPROC, processes, processes),
        (Resource::RLIMIT_NOFILE, limits.files, limits.files),
        (Resource::RLIMIT_FSIZE, limits.disk_bytes, limits.disk_bytes),
        (Resource::RLIMIT_STACK, 8 << 20, 64 << 20),
        (Resource::RLIMIT_CORE, 0, 0),
        (Resource::RLIMIT_MEMLOCK, 0, 0),
        (Resource::RLIMIT_MSGQUEUE, 0, 0),
        (Resource::RLIMIT_SIGPENDING, 64, 64),
        (Resource::RLIMIT_NICE, 0, 0),
        (Resource::RLIMIT_RTPRIO, 0, 0),
    ] {
        // A limit that the caller has already is never raised.
        let (_, most) = nix::sys::resource::getrlimit(resource)?;
        setrlimit(resource, soft.min(most), hard.min(most))?;
    }
    Ok(())
}

/// Leaves no capability, in no set, and for root no root.
fn drop_capabilities(layers: &mut Layers, request: &Request) -> Result<(), String> {
    for capability in 0..64 {
        // SAFETY: takes numbers only; unknown capabilities and those that cannot be dropped are errors that do not matter,
        // since the sets below are emptied and no_new_privs keeps the bounding set from being used.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    if geteuid().is_root() {
        user::become_nobody(request.user)?;
        layers.hold(Layer::UnprivilegedUser, format!("user {0}, group {0}", request.user));
    }
    /// `struct __user_cap_header_struct` of linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `struct __user_cap_data_struct`: effective, permitted, inheritable.
    type Data = [u32; 3];
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = Header { version: VERSION, pid: 0 };
    let none: [Data; 2] = [[0; 3]; 2];
    // SAFETY: header and data have the layout that version 3 asks for, two data elements, and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header as *const Header, none.as_ptr()) };
    if result != 0 {
        return Err(format!("cannot drop capabilities: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: takes numbers only. Kernels before 4.3 have no ambient set and say so.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "a path holds a NUL".to_owned())
}

fn arguments(request: &Request) -> Result<Vec<CString>, String> {
    // Neither the user's packages nor compiled files; the driver as text, so that no file has to be shown for it.
    let options = ["-s", "-B", "-c", DRIVER];
    let python = request.python.as_os_str().as_bytes();
    [python].into_iter().chain(options.map(str::as_bytes)).map(c_string).collect()
}

/// Nothing of the caller's. The hash seed is fixed so that verdicts are the same every time; numeric libraries would
/// otherwise start a thread for each core, and run into the limits.
fn environment(home: &Path) -> Result<Vec<CString>, String> {
    let home = home.display();
    let variables = [
        format!("HOME={home}"),
        format!("TMPDIR={home}"),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        "LANG=C.UTF-8".to_owned(),
        "PYTHONHASHSEED=0".to_owned(),
        "OMP_NUM_THREADS=1".to_owned(),
        "OPENBLAS_NUM_THREADS=1".to_owned(),
    ];
    variables.iter().map(|v| c_string(v.as_bytes())).collect()
}
