//! The sandbox as its caller sees it: starts a launcher for each run, and hears its report.

use super::cgroup::{Cgroup, Place};
use super::launcher;
use super::protocol::{LAUNCHER, Report, Request};
use super::python::{self, Python};
use super::{Limits, Options, Outcome, SandboxError, Verdict};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Whether the program that is running would act as a launcher if started as one.
static IS_LAUNCHER: AtomicBool = AtomicBool::new(false);

/// How much longer than its sample's time a launcher may take: to start, to end everything, to report.
const GRACE: Duration = Duration::from_secs(60);

/// A machine that is busy, or short of memory for a moment, is no reason to give up: how long to wait before each further attempt.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];

/// System folders and files that programs need, where they exist.
const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/nix/store", "/gnu/store"];

/// The users that root's samples run as: a range that distributions keep free for users that last as long as a process.
const USERS: std::ops::Range<u32> = 61_184..65_520;

/// Acts as the sandbox's launcher, if this process was started as one; the result is then the program's exit code.
/// Call it first in `main`, before any thread starts.
pub fn launch_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() == Some(OsStr::new(LAUNCHER)) && arguments.next().is_none() {
        return Some(launcher::main());
    }
    IS_LAUNCHER.store(true, Ordering::Relaxed);
    None
}

/// Runs samples. Clones share everything; runs may go on in many threads at once.
#[derive(Clone, Debug)]
pub struct Sandbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    launcher: PathBuf,
    python: Python,
    readable: Vec<PathBuf>,
    temporary: PathBuf,
    place: Result<Place, String>,
    options: Options,
}

impl Sandbox {
    /// Finds out what this machine gives, and runs an empty sample to see that it works.
    ///
    /// # Errors
    /// [`SandboxError::Refused`] if what the machine gives does not suffice; [`SandboxError::Python`] without an
    /// interpreter; [`SandboxError::NoLauncher`] in a program that never called [`launch_if_asked`].
    pub fn new(options: Options) -> Result<Sandbox, SandboxError> {
        let launcher = match &options.launcher {
            Some(path) => path.clone(),
            None if IS_LAUNCHER.load(Ordering::Relaxed) => "/proc/self/exe".into(),
            None => return Err(SandboxError::NoLauncher),
        };
        let python = Python::find(options.python.as_deref())?;
        let mut readable: Vec<PathBuf> =
            SYSTEM.map(PathBuf::from).into_iter().filter(|p| p.exists()).collect();
        for folder in &python.folders {
            if !readable.iter().any(|r| folder.starts_with(r)) {
                readable.push(folder.clone());
            }
        }
        let place = match options.without.contains(&super::Layer::Cgroup) {
            true => Err("left out as asked".to_owned()),
            false => Place::find(),
        };
        let temporary = temporary().ok_or_else(|| {
            SandboxError::Failed(
                "no folder for temporary files can be reached by an unprivileged user".to_owned(),
            )
        })?;
        let inner = Inner { launcher, python, readable, temporary, place, options };
        let verdict = inner.run("sandbox.py", "pass", None, &Limits::default())?;
        if verdict.verdict != Outcome::Pass {
            let Verdict { reason, stderr, .. } = verdict;
            return Err(SandboxError::Failed(format!("an empty program does not pass: {reason} {stderr}")));
        }
        Ok(Sandbox(Arc::new(inner)))
    }

    /// Runs `code`, then `tests` in the same module. Waits for the end; call it from several threads to run several.
    ///
    /// With tests, code is imported as the module `solution`, and the tests see its names. They may assert at their
    /// top level; functions named `test…` (coroutines too), unittest cases and classes named `Test…` that have not run by then are
    /// run after it. Tests that check nothing, or of which one cannot be run, are an error. Without tests, code runs as a program,
    /// with an empty stdin.
    ///
    /// # Errors
    /// The sandbox failed three times in a row, or what it rests on went away. Whatever the sample does is a verdict, not an error.
    pub fn run(&self, code: &str, tests: Option<&str>, limits: &Limits) -> Result<Verdict, SandboxError> {
        self.0.run("solution.py", code, tests, limits)
    }
}

impl Inner {
    fn run(
        &self,
        name: &str,
        code: &str,
        tests: Option<&str>,
        limits: &Limits,
    ) -> Result<Verdict, SandboxError> {
        limits.check().map_err(SandboxError::Failed)?;
        let mut pauses = PAUSES.into_iter();
        loop {
            match (self.attempt(name, code, tests, limits), pauses.next()) {
                (Err(SandboxError::Failed(_)), Some(pause)) => std::thread::sleep(pause),
                (result, _) => return result,
            }
        }
    }

    fn attempt(
        &self,
        name: &str,
        code: &str,
        tests: Option<&str>,
        limits: &Limits,
    ) -> Result<Verdict, SandboxError> {
        let failed = |what: &str, e: std::io::Error| SandboxError::Failed(format!("{what}: {e}"));
        let folder = tempfile::Builder::new()
            .prefix("distillix-sandbox-")
            .tempdir_in(&self.temporary)
            .map_err(|e| failed("cannot make a temporary folder", e))?;
        let group = self.place.clone().and_then(|place| place.create(limits));
        let request = Request {
            parent: std::process::id(),
            limits: *limits,
            without: self.options.without.clone(),
            allow_missing: self.options.allow_missing,
            python: self.python.executable.clone(),
            readable: self.readable.clone(),
            folder: folder.path().to_owned(),
            user: next_user(),
            cgroup: group.as_ref().map(|g| g.path().to_owned()).map_err(Clone::clone),
            name: name.to_owned(),
            code: code.to_owned(),
            tests: tests.map(str::to_owned),
            nonce: nonce().map_err(|e| failed("no random numbers", e))?,
        };
        let mut child = start(&self.launcher).map_err(|e| failed("cannot start the launcher", e))?;
        let deadline = Instant::now() + Duration::from_secs_f64(limits.wall_seconds) + GRACE;
        let report = talk(&mut child, &request, deadline);
        // A launcher that has reported has ended already; one that has not takes its sample with it.
        let _ = child.kill();
        let _ = child.wait();
        open_up(folder.path());
        match report.map_err(SandboxError::Failed)? {
            Report::Judged(verdict) => Ok(amend(*verdict, group.as_ref().ok(), limits)),
            Report::Refused(layers) => Err(SandboxError::Refused {
                lacking: layers.lacking().join("; "),
                missing: layers.missing_in_words(),
                layers,
            }),
            Report::Failed(why) => Err(SandboxError::Failed(why)),
        }
    }
}

/// A folder for temporary files that the sample's user can reach.
fn temporary() -> Option<PathBuf> {
    let usual = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    let mut folders = [std::env::temp_dir()].into_iter().chain(usual).filter(|folder| folder.is_dir());
    folders.find(|folder| python::closed_to_others([folder.as_path()]).is_none())
}

/// Makes what a sample left behind removable: without a file system of its own, it may have made folders that not even it can
/// enter.
fn open_up(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| open_up(&entry.path()));
}

/// Adds what only the control group knows.
fn amend(mut verdict: Verdict, group: Option<&Cgroup>, limits: &Limits) -> Verdict {
    let Some(group) = group else { return verdict };
    if let Some(peak) = group.peak_memory() {
        verdict.peak_memory_bytes = peak;
    }
    if !matches!(verdict.verdict, Outcome::Pass | Outcome::Timeout) && group.out_of_memory() {
        verdict.verdict = Outcome::Error;
        verdict.reason = launcher::memory_reason(limits);
    }
    verdict
}

/// A launcher starts with nothing of this process: no environment, no open file, no terminal.
fn start(program: &Path) -> std::io::Result<Child> {
    Command::new(program)
        .arg(LAUNCHER)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Sends the request and waits for the report.
fn talk(child: &mut Child, request: &Request, deadline: Instant) -> Result<Report, String> {
    let request = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    let mut stdin = child.stdin.take().ok_or("the launcher has no stdin")?;
    let mut stdout = child.stdout.take().ok_or("the launcher has no stdout")?;
    // The launcher reads all of it before it does anything else, so this cannot wait for the report.
    stdin.write_all(&request).map_err(|e| format!("the launcher does not listen: {e}"))?;
    drop(stdin);
    let mut text = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout);
        match ready {
            Ok(0) if Instant::now() >= deadline => return Err("the launcher did not report in time".into()),
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.to_string()),
        }
        match stdout.read(&mut part) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    if text.is_empty() {
        let status = child.wait().map_err(|e| e.to_string())?;
        return Err(format!("the launcher ended without a report ({status})"));
    }
    serde_json::from_slice(&text).map_err(|e| format!("the launcher's report is broken: {e}"))
}

/// Users in turn, so that samples that run at the same time cannot signal each other even without namespaces.
fn next_user() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let turn = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    USERS.start + turn % (USERS.end - USERS.start)
}

/// 128 bits from the system, in hexadecimal.
fn nonce() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}
