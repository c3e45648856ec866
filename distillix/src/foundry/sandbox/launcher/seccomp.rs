//! The system calls that a sample may make. What is not on the list fails with EPERM: mounts, namespaces, ptrace, other
//! users, other processes' memory, kernel modules, keys, BPF, io_uring, System V objects, network sockets, and whatever
//! the kernel will learn.

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

/// What depends on the other layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Unix sockets lead nowhere, because network and files are the sample's own.
    pub(super) unix_sockets: bool,
    /// Something else keeps signals from processes outside; if not, a process may signal only itself.
    pub(super) signals_apart: bool,
    /// No file of the host is visible to which the sample's user could give another mode or time, which Landlock allows, or an end,
    /// which it allows before its version 3 (Linux 6.2).
    pub(super) own_files: bool,
    /// Memory of files without a name is counted.
    pub(super) memory_counted: bool,
}

/// Calls that are allowed whatever their arguments.
#[rustfmt::skip]
const PLAIN: &[c_long] = &[
    // files and descriptors
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2,
    SYS_pwritev2, SYS_close, SYS_close_range, SYS_lseek, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs,
    SYS_fcntl, SYS_flock, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_fallocate, SYS_fadvise64,
    SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_openat, SYS_openat2, SYS_faccessat, SYS_faccessat2,
    SYS_readlinkat, SYS_mkdirat, SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_umask, SYS_dup, SYS_dup3, SYS_pipe2, SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_tee,
    // waiting for them
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_signalfd4, SYS_inotify_init1,
    SYS_inotify_add_watch, SYS_inotify_rm_watch,
    // sockets that exist: pairs, and what the policy adds
    SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_shutdown, SYS_sendto, SYS_recvfrom,
    SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
    // memory
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_msync, SYS_mincore, SYS_membarrier,
    // signals of one's own
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait, SYS_sigaltstack,
    // processes and threads
    SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid,
    SYS_getresgid, SYS_getgroups, SYS_getpgid, SYS_getsid, SYS_setpgid, SYS_setsid, SYS_getpriority, SYS_getrusage,
    SYS_times, SYS_sysinfo, SYS_uname, SYS_getcpu, SYS_getrandom, SYS_sched_yield, SYS_sched_getaffinity,
    SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_get_priority_max,
    SYS_sched_get_priority_min, SYS_execve, SYS_execveat, SYS_wait4, SYS_waitid, SYS_exit, SYS_exit_group,
    SYS_pidfd_open, SYS_futex, SYS_set_robust_list, SYS_set_tid_address, SYS_rseq, SYS_restart_syscall,
    // Refused by a second filter, as unknown to the kernel: libraries then use clone, whose flags can be looked at.
    SYS_clone3,
    // clocks
    SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getitimer,
    SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete,
];

/// The older forms of some of them, which only x86-64 has.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_unlink, SYS_rename,
    SYS_renameat, SYS_link, SYS_symlink, SYS_getdents, SYS_dup2,
    SYS_pipe, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd, SYS_signalfd, SYS_inotify_init,
    SYS_getpgrp, SYS_alarm, SYS_pause, SYS_time, SYS_fork, SYS_vfork, SYS_getrlimit, SYS_arch_prctl,
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[c_long] = &[SYS_renameat, SYS_getrlimit];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[c_long] = &[];

/// Every flag of clone that makes a namespace.
const NAMESPACES: c_int =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// Installs the filters on this process; they hold for all it becomes and starts. Needs `no_new_privs`.
pub(super) fn apply(policy: Policy) -> Result<String, String> {
    let (allow, count) = allowed(policy).map_err(|e| e.to_string())?;
    let unknown = filter(
        BTreeMap::from([(SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(ENOSYS as u32),
    )
    .map_err(|e| e.to_string())?;
    for program in [&unknown, &allow] {
        apply_filter(program).map_err(|e| e.to_string())?;
    }
    Ok(format!("{count} system calls are allowed"))
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()
}

fn allowed(policy: Policy) -> Result<(BpfProgram, usize), seccompiler::BackendError> {
    let mut rules: Rules = PLAIN.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    // The kernel reads these arguments as 32 bits, so the rest must not decide.
    let is =
        |argument, value: c_int| SeccompCondition::new(argument, Len::Dword, Op::Eq, u64::from(value as u32));
    let masked = |argument, mask: c_int, value: c_int| {
        SeccompCondition::new(
            argument,
            Len::Dword,
            Op::MaskedEq(u64::from(mask as u32)),
            u64::from(value as u32),
        )
    };
    let mut add = |call: c_long, alternatives: Vec<SeccompRule>| {
        rules.insert(call, alternatives);
    };
    let one_of = |argument, values: &[c_int]| -> Result<Vec<_>, seccompiler::BackendError> {
        values.iter().map(|value| SeccompRule::new(vec![is(argument, *value)?])).collect()
    };

    add(SYS_clone, vec![SeccompRule::new(vec![masked(0, NAMESPACES, 0)?])?]);
    add(
        SYS_ioctl,
        one_of(1, &[TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX].map(|c| c as c_int))?,
    );
    add(
        SYS_prctl,
        one_of(
            0,
            &[
                PR_SET_NAME,
                PR_GET_NAME,
                PR_GET_DUMPABLE,
                PR_SET_PDEATHSIG,
                PR_CAPBSET_READ,
                PR_SET_VMA,
                PR_GET_NO_NEW_PRIVS,
            ],
        )?,
    );
    // One's own limits, which nobody can raise.
    add(SYS_prlimit64, one_of(0, &[0])?);
    // Asks and does not set.
    add(SYS_personality, one_of(0, &[-1])?);
    // Named pipes, no devices.
    add(SYS_mknodat, vec![SeccompRule::new(vec![masked(2, S_IFMT as c_int, S_IFIFO as c_int)?])?]);
    if policy.unix_sockets {
        add(SYS_socket, one_of(0, &[AF_UNIX])?);
        add(SYS_socketpair, one_of(0, &[AF_UNIX])?);
        for call in [SYS_bind, SYS_listen, SYS_connect, SYS_accept4] {
            add(call, Vec::new());
        }
        #[cfg(target_arch = "x86_64")]
        add(SYS_accept, Vec::new());
    } else {
        // A connected pair; others could be sent to an address.
        add(SYS_socketpair, vec![SeccompRule::new(vec![is(0, AF_UNIX)?, masked(1, 0xf, SOCK_STREAM)?])?]);
    }
    if policy.signals_apart {
        for call in [SYS_kill, SYS_tkill, SYS_tgkill, SYS_pidfd_send_signal] {
            add(call, Vec::new());
        }
    } else {
        // The number stays the same when the interpreter starts.
        let own = std::process::id() as c_int;
        add(SYS_kill, one_of(0, &[own])?);
        add(SYS_tgkill, one_of(0, &[own])?);
    }
    if policy.own_files {
        for call in [SYS_fchmod, SYS_fchmodat, SYS_utimensat, SYS_truncate] {
            add(call, Vec::new());
        }
        #[cfg(target_arch = "x86_64")]
        for call in [SYS_chmod, SYS_utime, SYS_utimes, SYS_futimesat] {
            add(call, Vec::new());
        }
    }
    if policy.memory_counted {
        add(SYS_memfd_create, Vec::new());
    }
    let count = rules.len();
    let program = filter(rules, SeccompAction::Errno(EPERM as u32), SeccompAction::Allow)?;
    Ok((program, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_compiles_to_a_filter() {
        for bits in 0..16 {
            let policy = Policy {
                unix_sockets: bits & 1 != 0,
                signals_apart: bits & 2 != 0,
                memory_counted: bits & 4 != 0,
                own_files: bits & 8 != 0,
            };
            let (program, count) = allowed(policy).unwrap();
            assert!(program.len() > count);
        }
    }

    #[test]
    fn what_leads_out_is_not_on_the_list() {
        for call in [
            SYS_ptrace,
            SYS_mount,
            SYS_umount2,
            SYS_pivot_root,
            SYS_chroot,
            SYS_unshare,
            SYS_setns,
            SYS_bpf,
            SYS_keyctl,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_setuid,
            SYS_setresuid,
            SYS_io_uring_setup,
            SYS_socket,
            SYS_shmget,
            SYS_init_module,
            SYS_perf_event_open,
            SYS_userfaultfd,
            SYS_pidfd_getfd,
            SYS_open_by_handle_at,
        ] {
            assert!(!PLAIN.contains(&call) && !OLDER.contains(&call), "{call}");
        }
    }
}
