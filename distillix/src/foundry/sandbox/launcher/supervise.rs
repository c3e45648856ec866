//! Watches a sample from outside its namespaces: the clock, its output, its memory, its end.

use super::super::protocol::{Report, Request};
use super::super::{Layer, Layers, Limits, Outcome, Verdict};
use super::init::Setup;
use super::{Ends, tree};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often memory and disk are looked at where nothing else bounds them as a whole.
const WATCH: Duration = Duration::from_millis(20);
/// How long the steps before the interpreter may take.
const SETUP: Duration = Duration::from_secs(30);
/// How much of what the driver says is kept, in bytes.
const SAID: usize = 64 << 10;

/// Why a sample was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Time,
    Output,
    Memory,
    Disk,
}

/// Waits for the sample, ends all that is left of it, and judges.
pub(super) fn run(request: &Request, ends: Ends, child: Pid, pid_namespace: bool) -> Result<Report, String> {
    let end = || {
        let _ = kill(child, Signal::SIGKILL);
        let usage = wait(child);
        if !pid_namespace {
            tree::end_all();
        }
        usage
    };
    let Ends { stdout, stderr, channel, setup, mut status } = ends;
    let layers = match hear_setup(setup) {
        Ok(Setup::Ready(layers)) => layers,
        other => {
            end();
            return match other {
                Ok(Setup::Refused(layers)) => Ok(Report::Refused(layers)),
                Ok(Setup::Failed(why)) | Err(why) => Err(why),
                Ok(Setup::Ready(_)) => unreachable!("handled above"),
            };
        }
    };
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs_f64(request.limits.wall_seconds);
    let watch = Watch::new(&layers);
    let mut output = [Stream::new(stdout), Stream::new(stderr)]
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| e.to_string())?;
    channel.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut driver = Driver::new(request, channel);
    let mut next_watch = begin + WATCH;

    let stop = loop {
        let now = Instant::now();
        if now >= deadline {
            break Some(Stop::Time);
        }
        if watch.any() && now >= next_watch {
            if let Some(stop) = watch.look(request) {
                break Some(stop);
            }
            next_watch = Instant::now() + WATCH;
        }
        let until = if watch.any() { deadline.min(next_watch) } else { deadline };
        let ready = {
            let mut fds = vec![PollFd::new(status.as_fd(), PollFlags::POLLIN)];
            fds.push(PollFd::new(driver.channel.as_fd(), driver.interest()));
            fds.extend(
                output.iter().filter(|s| s.open).map(|s| PollFd::new(s.pipe.as_fd(), PollFlags::POLLIN)),
            );
            // Rounded up, so that the loop does not spin in the last millisecond.
            let wait = until.saturating_duration_since(now) + Duration::from_millis(1);
            match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)) {
                Ok(_) => fds[0].any().unwrap_or(false),
                Err(nix::errno::Errno::EINTR) => false,
                Err(e) => {
                    end();
                    return Err(e.to_string());
                }
            }
        };
        driver.exchange();
        let room = request.limits.output_bytes;
        if output.iter_mut().any(|stream| stream.take(room)) || total(&output) > room {
            break Some(Stop::Output);
        }
        if ready {
            break None;
        }
    };
    let wall_seconds = begin.elapsed().as_secs_f64();
    let mut raw = [0; 4];
    let ended = (stop.is_none() && status.read_exact(&mut raw).is_ok()).then(|| i32::from_le_bytes(raw));
    let usage = end();
    driver.exchange();
    for stream in &mut output {
        stream.take(request.limits.output_bytes);
    }
    let stop = stop.or((total(&output) > request.limits.output_bytes).then_some(Stop::Output));
    let judged = judge(request, stop, ended, &driver.said(), usage.cpu_seconds);
    let mut room = request.limits.output_bytes;
    let mut texts = output.iter().map(|stream| {
        let text = &stream.bytes[..stream.bytes.len().min(room)];
        room -= text.len();
        String::from_utf8_lossy(text).into_owned()
    });
    let (stdout, stderr) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    Ok(Report::Judged(Box::new(Verdict {
        verdict: judged.0,
        reason: judged.1,
        exit_code: ended.filter(|s| libc::WIFEXITED(*s)).map(|s| libc::WEXITSTATUS(s)),
        signal: ended.filter(|s| libc::WIFSIGNALED(*s)).map(|s| libc::WTERMSIG(s)),
        wall_seconds,
        cpu_seconds: usage.cpu_seconds,
        peak_memory_bytes: usage.peak_bytes,
        stdout,
        stderr,
        layers,
    })))
}

/// Reads what is told until the interpreter starts, which closes the pipe.
fn hear_setup(mut pipe: io::PipeReader) -> Result<Setup, String> {
    let deadline = Instant::now() + SETUP;
    let mut text = Vec::new();
    let mut part = [0; 8 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err("setting up the sandbox took too long".to_owned()),
            Ok(_) => match pipe.read(&mut part).map_err(|e| e.to_string())? {
                0 => break,
                n => text.extend_from_slice(&part[..n]),
            },
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    let last = text.split(|b| *b == b'\n').rfind(|line| !line.is_empty());
    let last = last.ok_or("the sandbox's first process ended before it had set anything up")?;
    serde_json::from_slice(last).map_err(|e| format!("setup cannot be read: {e}"))
}

struct Usage {
    cpu_seconds: f64,
    peak_bytes: u64,
}

/// Waits for the first process; its usage includes that of what it waited for.
fn wait(child: Pid) -> Usage {
    // SAFETY: a rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: waits for a child of this process; usage is a place for a rusage, and no status is asked for.
        let pid = unsafe { libc::wait4(child.as_raw(), std::ptr::null_mut(), 0, &mut usage) };
        if pid >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Usage {
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
    }
}

/// What has to be looked at because no layer bounds it as a whole.
struct Watch {
    memory: bool,
    disk: bool,
}

impl Watch {
    fn new(layers: &Layers) -> Watch {
        Watch { memory: !layers.holds(Layer::Cgroup), disk: !layers.holds(Layer::MountNamespace) }
    }

    fn any(&self) -> bool {
        self.memory || self.disk
    }

    fn look(&self, request: &Request) -> Option<Stop> {
        let Limits { memory_bytes, disk_bytes, .. } = request.limits;
        if self.memory && tree::memory(&tree::descendants(), memory_bytes) > memory_bytes {
            return Some(Stop::Memory);
        }
        let used = || size(&request.folder).saturating_add(tree::deleted_files(&tree::descendants()));
        (self.disk && used() > disk_bytes).then_some(Stop::Disk)
    }
}

/// The disk space of what lies in a folder, in bytes.
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return 0,
        // Deeper than a path can name, or closed: nobody knows how much is below.
        Err(_) => return u64::MAX,
    };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => (meta.blocks() * 512).saturating_add(size(&entry.path())),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).fold(0, u64::saturating_add)
}

/// What a sample writes.
struct Stream {
    pipe: io::PipeReader,
    bytes: Vec<u8>,
    open: bool,
}

impl Stream {
    fn new(pipe: io::PipeReader) -> io::Result<Stream> {
        // SAFETY: sets a flag on a descriptor that pipe holds.
        let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Stream { pipe, bytes: Vec::new(), open: true })
    }

    /// Takes what is there. Returns whether it is more than `room`.
    fn take(&mut self, room: usize) -> bool {
        let mut part = [0; 16 << 10];
        while self.open && self.bytes.len() <= room {
            match self.pipe.read(&mut part) {
                Ok(0) => self.open = false,
                Ok(n) => self.bytes.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.bytes.len() > room
    }
}

fn total(output: &[Stream]) -> usize {
    output.iter().map(|stream| stream.bytes.len()).sum()
}

/// The conversation with the driver: it gets the code and the tests, and says what came of them.
struct Driver {
    channel: std::os::unix::net::UnixStream,
    sending: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
    open: bool,
}

impl Driver {
    fn new(request: &Request, channel: std::os::unix::net::UnixStream) -> Driver {
        let Request { name, code, tests, nonce, .. } = request;
        let sending = match tests {
            Some(tests) => segments(&[name, "tests", code, tests, nonce]),
            None => segments(&[name, "", code, ""]),
        };
        Driver { channel, sending, sent: 0, heard: Vec::new(), open: true }
    }

    fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.open);
        flags.set(PollFlags::POLLOUT, self.open && self.sent < self.sending.len());
        flags
    }

    /// Sends and hears what is possible now.
    fn exchange(&mut self) {
        let mut part = [0; 4 << 10];
        while self.open {
            match self.channel.read(&mut part) {
                Ok(0) => self.open = false,
                Ok(n) if self.heard.len() < SAID => self.heard.extend_from_slice(&part[..n]),
                Ok(_) => self.open = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        while self.open && self.sent < self.sending.len() {
            match self.channel.write(&self.sending[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    fn said(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.heard).lines().map(str::to_owned).collect()
    }
}

fn segments(texts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// What is said of a sample that needed too much memory.
pub(crate) fn memory_reason(limits: &Limits) -> String {
    format!("needed more than {} MiB of memory", limits.memory_bytes >> 20)
}

/// The verdict and its reason, from how the interpreter ended (`None`: it was stopped) and what the driver said.
fn judge(
    request: &Request,
    stop: Option<Stop>,
    status: Option<i32>,
    said: &[String],
    cpu_seconds: f64,
) -> (Outcome, String) {
    let limits = &request.limits;
    match stop {
        Some(Stop::Time) => return (Outcome::Timeout, format!("ran longer than {} s", limits.wall_seconds)),
        Some(Stop::Output) => {
            return (Outcome::Error, format!("wrote more than {} KiB", limits.output_bytes >> 10));
        }
        Some(Stop::Memory) => return (Outcome::Error, memory_reason(limits)),
        Some(Stop::Disk) => {
            return (Outcome::Error, format!("filled more than {} MiB of disk", limits.disk_bytes >> 20));
        }
        None => {}
    }
    let Some(status) = status else {
        return (Outcome::Error, "the sandbox's first process was ended from outside".to_owned());
    };
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // The soft limit's signal can be caught; then the hard limit's SIGKILL comes a second later.
        if signal == libc::SIGXCPU || (signal == libc::SIGKILL && cpu_seconds >= limits.cpu_seconds as f64) {
            return (Outcome::Timeout, format!("used more than {} s of processor time", limits.cpu_seconds));
        }
        let name = Signal::try_from(signal).map_or("unknown", Signal::as_str);
        return (Outcome::Error, format!("ended by signal {signal} ({name})"));
    }
    let code = libc::WEXITSTATUS(status);
    // Said by the code itself or by a copy of it that it forked: a bad word counts, whoever says it.
    for line in said {
        let (kind, reason) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "fail" => return (Outcome::Fail, reason.to_owned()),
            "error" => return (Outcome::Error, reason.to_owned()),
            "memory" => return (Outcome::Error, memory_reason(limits)),
            _ => {}
        }
    }
    let passed = match &request.tests {
        None => code == 0,
        Some(_) => code == 0 && said.iter().any(|line| line.trim_end() == format!("pass {}", request.nonce)),
    };
    match (passed, &request.tests) {
        (true, _) => (Outcome::Pass, String::new()),
        (false, None) => (Outcome::Fail, format!("ended with status {code}")),
        (false, Some(_)) => (Outcome::Fail, format!("ended with status {code} before its tests were done")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tests: Option<&str>) -> Request {
        Request {
            parent: 0,
            limits: Limits::default(),
            without: Vec::new(),
            allow_missing: false,
            python: "/usr/bin/python3".into(),
            readable: Vec::new(),
            folder: "/tmp".into(),
            user: 1,
            cgroup: Err(String::new()),
            name: "a.py".into(),
            code: String::new(),
            tests: tests.map(str::to_owned),
            nonce: "1234".into(),
        }
    }

    fn outcome(tests: Option<&str>, stop: Option<Stop>, status: i32, said: &[&str]) -> Outcome {
        let said: Vec<_> = said.iter().map(|s| (*s).to_owned()).collect();
        judge(&request(tests), stop, Some(status), &said, 0.1).0
    }

    #[test]
    fn a_pass_takes_the_nonce_and_a_clean_end() {
        let tests = Some("assert f()");
        assert_eq!(outcome(tests, None, 0, &["pass 1234"]), Outcome::Pass);
        assert_eq!(outcome(tests, None, 0, &["pass 9999"]), Outcome::Fail);
        assert_eq!(outcome(tests, None, 0, &[]), Outcome::Fail);
        assert_eq!(outcome(tests, None, 1 << 8, &["pass 1234"]), Outcome::Fail);
        assert_eq!(outcome(tests, None, 0, &["fail no", "pass 1234"]), Outcome::Fail);
        assert_eq!(outcome(tests, Some(Stop::Time), 0, &["pass 1234"]), Outcome::Timeout);
        assert_eq!(outcome(None, None, 0, &[]), Outcome::Pass);
        assert_eq!(outcome(None, None, 3 << 8, &[]), Outcome::Fail);
    }

    #[test]
    fn signals_tell_time_from_other_ends() {
        assert_eq!(outcome(None, None, libc::SIGXCPU, &[]), Outcome::Timeout);
        assert_eq!(outcome(None, None, libc::SIGSEGV, &[]), Outcome::Error);
        assert_eq!(outcome(None, None, libc::SIGKILL, &[]), Outcome::Error);
        let late = judge(&request(None), None, Some(libc::SIGKILL), &[], 10.5).0;
        assert_eq!(late, Outcome::Timeout);
    }
}
