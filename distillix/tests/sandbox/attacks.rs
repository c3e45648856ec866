//! Attacks, each a Python program that says `ESCAPED` where it gets out. Names in braces are put in by `Host::aim`.

use distillix::foundry::sandbox::Layer::{self, *};
use distillix::foundry::sandbox::{Limits, Outcome};

pub struct Attack {
    pub name: &'static str,
    pub code: &'static str,
    pub limits: fn(&mut Limits),
    /// The verdict that the attack must end with; `None` leaves it open.
    pub ends: Option<Outcome>,
    /// The layers without which it gets out; a test takes them away to see that it does. Empty where that would
    /// harm the machine, and where limits are the guard: there the verdict tells.
    pub guards: &'static [Layer],
}

const fn attack(name: &'static str, guards: &'static [Layer], code: &'static str) -> Attack {
    Attack { name, code, limits: |_| {}, ends: None, guards }
}

const fn bomb(name: &'static str, ends: Outcome, limits: fn(&mut Limits), code: &'static str) -> Attack {
    Attack { name, code, limits, ends: Some(ends), guards: &[] }
}

pub static ATTACKS: &[Attack] = &[
    bomb(
        "fork_bomb",
        Outcome::Timeout,
        |l| l.wall_seconds = 1.0,
        "
while True:
    try:
        os.fork()
    except OSError:
        pass
",
    ),
    attack(
        "many_processes",
        &[],
        "
children = 0
for _ in range(300):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        time.sleep(5)
        os._exit(0)
    children += 1
if children > MOST_TASKS:
    escaped('%d processes' % children)
",
    ),
    attack(
        "many_threads",
        &[],
        "
import threading
threading.stack_size(65536)
threads = 0
try:
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        threads += 1
except RuntimeError:
    pass
if threads > MOST_TASKS:
    escaped('%d threads' % threads)
",
    ),
    bomb(
        "memory_bomb",
        Outcome::Error,
        |_| {},
        "
hoard = []
while True:
    hoard.append(bytearray(16 << 20))
",
    ),
    bomb(
        "memory_bomb_of_many_processes",
        Outcome::Error,
        |l| l.wall_seconds = 20.0,
        "
held, hold = os.pipe()
def fork():
    # Tests beside this one may have the same user, and be at its limit for a moment.
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            time.sleep(0.05)
for _ in range(8):
    if fork() == 0:
        hoard = bytearray(b'x') * (200 << 20)
        os.write(hold, b'.')
        time.sleep(30)
        os._exit(0)
count = 0
while count < 8:
    count += len(os.read(held, 8))
time.sleep(2)
escaped('1.6 GB at once')
",
    ),
    attack(
        "memory_bomb_of_nameless_files",
        &[],
        "
for number in range(100):
    file = os.memfd_create('hoard') if number % 2 else os.open('%d' % number, os.O_RDWR | os.O_CREAT)
    for _ in range(31):
        os.write(file, bytes(1 << 20))
escaped('3 GB in files')
",
    ),
    attack(
        "disk_bomb_of_deleted_files",
        &[],
        "
try:
    fill_disk(os.unlink)
    escaped('250 MB in files without a name')
except OSError as error:
    print('contained:', error)
",
    ),
    attack(
        "disk_bomb_out_of_sight",
        &[],
        "
try:
    for _ in range(30):
        os.mkdir('d' * 200)
        os.chdir('d' * 200)
    fill_disk(lambda name: None)
    escaped('250 MB below folders that no path can name')
except OSError as error:
    print('contained:', error)
",
    ),
    bomb(
        "endless_output",
        Outcome::Error,
        |_| {},
        "
while True:
    os.write(1, b'x' * 4096)
",
    ),
    bomb(
        "endless_output_of_daemons",
        Outcome::Error,
        |_| {},
        "
for stream in (1, 2):
    if os.fork() == 0:
        os.setsid()
        while True:
            os.write(stream, b'x' * 4096)
time.sleep(60)
",
    ),
    bomb("sleep", Outcome::Timeout, |l| l.wall_seconds = 0.5, "time.sleep(600)"),
    bomb("stopped", Outcome::Timeout, |l| l.wall_seconds = 0.5, "os.kill(os.getpid(), signal.SIGSTOP)"),
    bomb(
        "busy_and_deaf",
        Outcome::Timeout,
        |l| {
            l.cpu_seconds = 1;
            l.wall_seconds = 20.0
        },
        "
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True:
    pass
",
    ),
    attack(
        "full_disk",
        &[],
        "
# In pieces that are below every file's limit.
for number in range(40):
    with open('piece%d' % number, 'wb') as file:
        file.write(bytes(4 << 20))
        file.flush()
        time.sleep(0.05)
escaped('160 MiB of disk')
",
    ),
    attack(
        "huge_file",
        &[],
        "attempt('a sparse file of 1 TB', lambda: os.truncate(os.open('f', os.O_RDWR | os.O_CREAT), 1 << 40))",
    ),
    attack(
        "many_open_files",
        &[],
        "attempt('5000 files', lambda: [os.open('/dev/null', os.O_RDONLY) for _ in range(5000)])",
    ),
    attack(
        "deep_recursion",
        &[],
        "
sys.setrecursionlimit(10 ** 9)
def f(n): return f(n + 1) + 1
f(0)
",
    ),
    attack(
        "network_out",
        &[NetworkNamespace, Seccomp, Landlock],
        "
attempt('TCP', lambda: socket.create_connection(('127.0.0.1', {PORT}), 2))
",
    ),
    attack(
        "network_in",
        &[NetworkNamespace, Seccomp, Landlock],
        "
def serve():
    server = socket.socket()
    server.bind(('127.0.0.1', {FREE_PORT}))
    server.listen()
    server.settimeout(3)
    server.accept()[0].sendall(b'{MARK}')
attempt('a visitor', serve)
",
    ),
    attack(
        "network_udp",
        &[NetworkNamespace, Seccomp, Landlock],
        "
attempt('UDP', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {PORT})))
",
    ),
    attack(
        "raw_sockets",
        &[UserNamespace, NetworkNamespace, Seccomp, UnprivilegedUser],
        "
attempt('packets', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).fileno())
attempt('raw IP', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno())
",
    ),
    attack(
        "unix_sockets_of_the_host",
        &[MountNamespace, NetworkNamespace, Seccomp, Landlock],
        "
attempt('by path', lambda: socket.socket(socket.AF_UNIX).connect('{FOLDER}/socket'))
attempt('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\\0{ABSTRACT}'))
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
attempt('a pair, connected again', lambda: a.connect('{FOLDER}/socket'))
",
    ),
    attack(
        "reading_outside",
        &[MountNamespace, Landlock],
        "
attempt('the secret', lambda: read('{FOLDER}/secret'))
attempt('/etc/passwd', lambda: read('/etc/passwd'))
attempt('the folder', lambda: os.listdir('{FOLDER}'))
attempt('/', lambda: 'home' in os.listdir('/'))
",
    ),
    attack(
        "writing_outside",
        &[MountNamespace, Landlock],
        "
attempt('the secret', lambda: write('{FOLDER}/secret'))
attempt('a new file', lambda: write('{FOLDER}/new'))
attempt('a new folder', lambda: os.mkdir('{FOLDER}/folder'))
attempt('an end', lambda: os.truncate('{FOLDER}/secret', 0))
attempt('no more', lambda: os.unlink('{FOLDER}/secret'))
attempt('another name', lambda: os.rename('{FOLDER}/secret', '{FOLDER}/moved'))
for folder in ('/usr/bin', '/usr/lib', '/etc', '/var/tmp', '/'):
    attempt(folder, lambda: write(folder + '/{MARK}'))
for folder in ('/tmp', '/dev/shm'):
    try:
        write(folder + '/{MARK}')  # its own folder, not the host's: the host is looked at afterwards
    except OSError:
        pass
",
    ),
    attack(
        "metadata_outside",
        &[MountNamespace, Seccomp, UserNamespace, UnprivilegedUser, Landlock],
        "
attempt('mode', lambda: os.chmod('{FOLDER}/secret', 0o666))
attempt('times', lambda: os.utime('{FOLDER}/secret', (1, 1)))
attempt('attributes', lambda: os.setxattr('{FOLDER}/secret', 'user.mine', b'x'))
",
    ),
    attack(
        "symlink_tricks",
        &[MountNamespace, Landlock],
        "
os.symlink('{FOLDER}', 'away')
os.symlink('/proc/self/root{FOLDER}/secret', 'root')
attempt('through a link', lambda: read('away/secret'))
attempt('through a link to write', lambda: write('away/new'))
attempt('through /proc', lambda: read('root'))
attempt('up', lambda: read('../' * 20 + '{FOLDER}/secret'))
attempt('another name', lambda: os.link('{FOLDER}/secret', 'mine') or read('mine'))
",
    ),
    attack(
        "signals",
        &[PidNamespace, UserNamespace, UnprivilegedUser, Landlock, Seccomp],
        "
attempt('the victim', lambda: os.kill({VICTIM}, signal.SIGTERM))
attempt('the victim, to look', lambda: os.kill({VICTIM}, 0))
attempt('the test', lambda: os.kill({TEST}, signal.SIGCONT))
",
    ),
    bomb(
        "signals_to_all",
        Outcome::Error,
        |l| l.wall_seconds = 3.0,
        "
# With a list of none but its own processes this reaches nobody else; it ends itself last.
try:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
os.kill(os.getpid(), signal.SIGKILL)
",
    ),
    attack(
        "ptrace",
        &[PidNamespace, UserNamespace, UnprivilegedUser, Landlock, Seccomp],
        "
attempt('attach to the victim', lambda: libc.ptrace(16, {VICTIM}, 0, 0))
attempt('attach to the parent', lambda: libc.ptrace(16, os.getppid(), 0, 0))
",
    ),
    attack(
        "memory_of_others",
        &[PidNamespace, MountNamespace, UserNamespace, UnprivilegedUser, Landlock, Seccomp],
        "
class Range(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
def peek(pid):
    with open('/proc/%d/maps' % pid) as maps:
        start = int(maps.readline().split('-')[0], 16)
    buffer = ctypes.create_string_buffer(16)
    here, there = Range(ctypes.addressof(buffer), 16), Range(start, 16)
    return libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
for pid in ({VICTIM}, os.getppid()):
    attempt('reading %d' % pid, lambda: peek(pid))
    attempt('the file of %d' % pid, lambda: os.open('/proc/%d/mem' % pid, os.O_RDWR))
",
    ),
    attack(
        "processes_of_others",
        &[PidNamespace, MountNamespace, UserNamespace, UnprivilegedUser, Landlock, Seccomp],
        "
attempt('environment', lambda: read('/proc/{VICTIM}/environ'))
attempt('command line', lambda: b'sleep' in open('/proc/{VICTIM}/cmdline', 'rb').read())
attempt('the parent', lambda: read('/proc/%d/environ' % os.getppid()))
attempt('the first', lambda: read('/proc/1/environ'))
attempt('the list', lambda: len([p for p in os.listdir('/proc') if p.isdigit()]) > 3)
",
    ),
    attack(
        "environment",
        &[],
        "
for name, value in os.environ.items():
    if '{SECRET}' in value or name in ('CARGO', 'USER', 'CARGO_MANIFEST_DIR'):
        escaped(name)
",
    ),
    attack(
        "inherited_files",
        &[],
        "
for fd in range(4, 128):
    attempt('file %d' % fd, lambda: os.fstat(fd))
",
    ),
    attack(
        "becoming_root",
        &[UserNamespace, UnprivilegedUser, Seccomp],
        "
attempt('setuid', lambda: os.setuid(0))
attempt('setgid', lambda: os.setgid(0))
attempt('setgroups', lambda: os.setgroups([0]))
",
    ),
    attack(
        "setuid_programs",
        &[],
        "
import shutil, subprocess
for program in ('/usr/bin/su', '/usr/bin/mount', '/usr/bin/passwd', '/usr/bin/newgrp'):
    if os.path.exists(program) and os.stat(program).st_mode & 0o4000:
        if libc.prctl(39, 0, 0, 0, 0) != 1:
            escaped('setuid programs give privileges')
try:
    shutil.copy(sys.executable, 'python')
    os.chmod('python', 0o6755)
    done = subprocess.run(['./python', '-c', 'import os; print(os.geteuid())'], capture_output=True)
    attempt('a setuid copy', lambda: done.stdout.strip() == b'0')
except OSError as error:
    print('contained:', error)
",
    ),
    attack(
        "capabilities",
        &[UserNamespace, UnprivilegedUser, Seccomp],
        "
attempt('nice', lambda: os.nice(-5) or os.nice(0) < 0)
attempt('chown', lambda: os.close(os.open('f', os.O_CREAT)) or os.chown('f', 1, 1))
",
    ),
    attack(
        "mounts",
        &[UserNamespace, UnprivilegedUser, Seccomp, Landlock, NoNewPrivileges],
        "
os.makedirs('here', exist_ok=True)
attempt('tmpfs', lambda: libc.mount(b'none', b'here', b'tmpfs', 0, 0))
attempt('writable again', lambda: libc.mount(b'none', b'/usr', 0, 0x1020, 0) and -1)
attempt('chroot', lambda: os.chroot('here'))
",
    ),
    attack(
        "new_namespaces",
        &[Seccomp, Landlock],
        "
for name, flag in (('user', 0x10000000), ('mount', 0x20000), ('network', 0x40000000)):
    attempt(name, lambda: libc.unshare(flag | 0x10000000))
if os.uname().machine == 'x86_64':
    attempt('by clone', lambda: syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0))
",
    ),
    attack(
        "kernel_interfaces",
        &[UserNamespace, UnprivilegedUser, Seccomp],
        "
buffer = ctypes.create_string_buffer(120)
if os.uname().machine == 'x86_64':
    attempt('io_uring', lambda: syscall(425, 4, ctypes.byref(buffer)))
    attempt('keyctl', lambda: syscall(250, 0, -3, 1))
    attempt('no address randomization', lambda: syscall(135, 0x0040000))
    attempt('syslog', lambda: syscall(103, 10, 0, 0))
attempt('a privileged setting', lambda: os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY))
attempt('another host name', lambda: socket.sethostname('mine'))
",
    ),
    attack(
        "devices",
        &[UserNamespace, UnprivilegedUser, MountNamespace, Landlock, Seccomp],
        "
attempt('mknod', lambda: os.mknod('disk', 0o60600, os.makedev(8, 0)))
attempt('kernel log', lambda: os.open('/dev/kmsg', os.O_RDONLY))
attempt('memory', lambda: os.open('/dev/mem', os.O_RDONLY))
attempt('terminal', lambda: os.open('/dev/tty', os.O_RDWR))
attempt('terminals', lambda: os.listdir('/dev/pts'))
",
    ),
    attack(
        "system_v_memory",
        &[Seccomp, IpcNamespace],
        "
segment = libc.shmget(77004321, 4096, 0o1666)
attempt('a segment that stays', lambda: segment)
libc.shmctl(segment, 0, 0)
",
    ),
    attack(
        "raising_limits",
        &[ResourceLimits, UserNamespace, UnprivilegedUser],
        "
import resource
for name in ('AS', 'CPU', 'NPROC', 'NOFILE', 'FSIZE', 'CORE'):
    kind = getattr(resource, 'RLIMIT_' + name)
    attempt(name, lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2))
",
    ),
    attack(
        "removing_its_guards",
        &[],
        "
import shutil
def gone(path):
    os.unlink(path)
# What it was told about, and what the sandbox consists of: all read-only, or not there.
for path in (sys.argv[0], sys.executable, '/dev/null', '/usr/bin/env', '{FOLDER}/secret'):
    attempt(path, lambda: gone(path))
for folder in ('/tmp', os.getcwd(), '/sys/fs/cgroup'):
    shutil.rmtree(folder, ignore_errors=True)
attempt('seccomp', lambda: libc.prctl(22, 0, 0, 0, 0))
attempt('no_new_privs', lambda: libc.prctl(38, 0, 0, 0, 0))
",
    ),
    attack(
        "leftover_daemon",
        &[],
        "
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(10):
            try:
                os.close(number)
            except OSError:
                pass
        while True:
            time.sleep(60)
    os._exit(0)
time.sleep(0.1)
",
    ),
    attack(
        "daemon_that_holds_the_output",
        &[],
        "
if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(60)
print('the end')
",
    ),
    attack(
        "forks_until_the_end",
        &[],
        "
# Each child is gone before a list of processes could be acted upon.
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork():
            os._exit(0)
time.sleep(0.2)
",
    ),
];
