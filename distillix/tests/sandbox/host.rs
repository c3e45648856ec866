//! What attacks aim at: files, a process, servers, all of this test's own; and what is left of it afterwards.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

pub const SECRET: &str = "the secret of the host";

pub struct Host {
    folder: tempfile::TempDir,
    victim: Child,
    tcp: TcpListener,
    unix: UnixListener,
    abstract_: UnixListener,
    /// Not close-on-exec, as careless libraries open files.
    _leak: i32,
    pub mark: String,
    abstract_name: String,
    free_port: u16,
}

impl Host {
    pub fn new() -> Host {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mark = format!("atk{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        // Open to everyone, so that file permissions alone protect nothing.
        let folder = tempfile::Builder::new().prefix("distillix-host-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut secret = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o666)
            .open(folder.path().join("secret"))
            .unwrap();
        secret.write_all(SECRET.as_bytes()).unwrap();
        fs::set_permissions(folder.path().join("secret"), fs::Permissions::from_mode(0o666)).unwrap();
        let victim = Command::new("sleep")
            .arg("600")
            .env("TOKEN", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        fs::set_permissions(folder.path().join("socket"), fs::Permissions::from_mode(0o777)).unwrap();
        unix.set_nonblocking(true).unwrap();
        let abstract_name = format!("distillix-{mark}");
        let abstract_ =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        abstract_.set_nonblocking(true).unwrap();
        let path = std::ffi::CString::new(folder.path().join("secret").to_str().unwrap()).unwrap();
        // SAFETY: opens a file; the number is kept and the file stays open until the process ends.
        let leak = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
        assert!(leak >= 0);
        Host {
            folder,
            victim,
            tcp,
            unix,
            abstract_,
            _leak: leak,
            mark,
            abstract_name,
            free_port: free_port(),
        }
    }

    /// An attack's code, aimed at this host.
    pub fn aim(&self, code: &str) -> String {
        let prelude = include_str!("prelude.py");
        let text = format!("{prelude}\n{code}");
        text.replace("{FOLDER}", self.folder.path().to_str().unwrap())
            .replace("{VICTIM}", &self.victim.id().to_string())
            .replace("{PORT}", &self.tcp.local_addr().unwrap().port().to_string())
            .replace("{FREE_PORT}", &self.free_port.to_string())
            .replace("{ABSTRACT}", &self.abstract_name)
            .replace("{MARK}", &self.mark)
            .replace("{SECRET}", SECRET)
            .replace("{TEST}", &std::process::id().to_string())
    }

    /// Whether the attack's server answers what comes from here. A connection alone proves nothing: it may be to itself, or
    /// to someone else's server.
    pub fn can_reach_in(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.free_port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut greeting = vec![0; self.mark.len()];
        stream.read_exact(&mut greeting).is_ok() && greeting == self.mark.as_bytes()
    }

    /// Everything that an attack has changed or left here.
    pub fn damage(&mut self) -> Vec<String> {
        let mut damage = Vec::new();
        let names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        if names.len() != 2 {
            damage.push(format!("files: {names:?}"));
        }
        if fs::read_to_string(self.folder.path().join("secret")).ok().as_deref() != Some(SECRET) {
            damage.push("the secret was changed".to_owned());
        }
        if self.victim.try_wait().unwrap().is_some() {
            damage.push("the victim was ended".to_owned());
        }
        let visited =
            [self.tcp.accept().is_ok(), self.unix.accept().is_ok(), self.abstract_.accept().is_ok()];
        for (visited, what) in visited.into_iter().zip(["TCP", "Unix", "abstract"]) {
            if visited {
                damage.push(format!("a connection to the {what} server"));
            }
        }
        let left = self.processes();
        if !left.is_empty() {
            damage.push(format!("processes left: {left:?}"));
        }
        let left: Vec<_> =
            ["/tmp", "/dev/shm", "/var/tmp"].iter().map(PathBuf::from).map(|p| p.join(&self.mark)).collect();
        damage.extend(left.iter().filter(|p| p.exists()).map(|p| format!("{} was made", p.display())));
        let shared = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        if shared.lines().any(|line| line.split_whitespace().next() == Some("77004321")) {
            damage.push("a System V segment was made".to_owned());
        }
        if self.can_reach_in() {
            damage.push("a server in the sandbox can be reached".to_owned());
        }
        damage
    }

    /// Processes that carry this host's mark, which those of an attack inherit.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let named = |e: &fs::DirEntry| {
            fs::read_to_string(e.path().join("comm")).is_ok_and(|comm| comm.trim() == self.mark)
        };
        entries.filter(named).map(|e| e.file_name().into_string().unwrap()).collect()
    }
}

/// A port that no one listens on, below those that systems hand out to whoever asks for any.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    (0..10_000)
        .map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        // What an attack left that ran without its guards.
        let _ = fs::remove_file(PathBuf::from("/var/tmp").join(&self.mark));
        let _ = fs::remove_file(PathBuf::from("/tmp").join(&self.mark));
        let _ = fs::remove_file(PathBuf::from("/dev/shm").join(&self.mark));
    }
}
