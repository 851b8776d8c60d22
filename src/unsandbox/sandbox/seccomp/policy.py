"""The system calls of a sandbox: each call in `syscalls.txt` is in exactly one of these lists.

The allow list is derived from Docker's list for a container without capabilities. Calls that no language
runtime needs are removed, because vulnerabilities were found in them. A refused call returns EPERM if the
kernel would return it to a user without privileges, and ENOSYS if programs then fall back to an older call.
`ptrace` is allowed: debuggers are a use of a sandbox, and the pid namespace confines them.
"""

from __future__ import annotations

_ALLOWED = """
# Files
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr file_setattr
flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
getxattr getxattrat lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask
unlink unlinkat utime utimensat utimes vmsplice write writev

# Memory
brk cachestat get_mempolicy getcpu madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2
mlockall mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect

# Processes, threads and their scheduling
arch_prctl capget capset execve execveat exit exit_group fork get_robust_list getpgid getpgrp getpid getppid
getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set kill pidfd_open pidfd_send_signal
prlimit64 process_mrelease restart_syscall rseq sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_tid_address setpgid
setpriority setrlimit setsid sysinfo tgkill times tkill uname vfork wait4 waitid

# Users: a sandbox has one
getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups setregid
setresgid setresuid setreuid setuid

# Signals, clocks and waiting
alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
epoll_wait eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake getitimer getrandom
gettimeofday inotify_add_watch inotify_init inotify_init1 inotify_rm_watch nanosleep pause poll ppoll pselect6
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo select setitimer sigaltstack signalfd signalfd4 time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime

# Between processes
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 recvfrom recvmmsg recvmsg semctl
semget semop semtimedop sendmmsg sendmsg sendto shmat shmctl shmdt shmget shutdown

# Giving up rights
landlock_add_rule landlock_create_ruleset landlock_restrict_self
"""

_NO_PERMISSION = """
# Mounts and namespaces; a handle opens a file past every mount
mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
open_tree_attr statmount listmount unshare setns sethostname setdomainname name_to_handle_at open_by_handle_at

# Interfaces that have been ways out of containers
add_key request_key keyctl bpf perf_event_open userfaultfd fanotify_init fanotify_mark pidfd_getfd kcmp
process_madvise modify_ldt

# The machine's administration
init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl
quotactl_fd syslog vhangup settimeofday clock_settime adjtimex clock_adjtime iopl ioperm lsm_set_self_attr

# Where in the machine memory lies
mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages
"""

_NOT_THERE = """
# Its flags lie in memory that a filter cannot read; a C library falls back to clone, whose flags are judged
clone3

# Asynchronous input and output: much code of the kernel, and contexts that the whole machine shares
io_uring_setup io_uring_enter io_uring_register io_setup io_submit io_cancel io_destroy io_getevents
io_pgetevents

# Another process's memory: debuggers fall back to ptrace
process_vm_readv process_vm_writev

# What hardly anybody uses, and what the kernel itself does not have any more
memfd_secret remap_file_pages lsm_get_self_attr lsm_list_modules set_thread_area get_thread_area
lookup_dcookie nfsservctl uselib ustat sysfs _sysctl create_module get_kernel_syms query_module afs_syscall
tuxcall security getpmsg putpmsg vserver epoll_ctl_old epoll_wait_old
"""


def names(text: str) -> frozenset[str]:
    """Return the words of a text, without lines that begin with `#`."""
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


ALLOWED = names(_ALLOWED)
"""Allowed with any arguments: the kernel caches that and does not run the filter for them."""
NO_PERMISSION = names(_NO_PERMISSION)
"""Answer EPERM."""
NOT_THERE = names(_NOT_THERE)
"""Answer ENOSYS, as do all calls without a number in the table."""
JUDGED = names("clone socket socketpair setsockopt ioctl personality prctl ptrace seccomp mknod mknodat")
"""Allowed or not by their arguments; see `seccomp`."""

CLONE_NEW_MASK = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
"""Linux, UNAME26, PER_LINUX32, both, ADDR_NO_RANDOMIZE (debuggers, Lisp), and the query."""
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
INTERNET_PROTOCOLS = (0, 1, 6, 17, 58)
"""Default, ICMP, TCP, UDP, ICMPv6. Others (SCTP, DCCP, L2TP, MPTCP) load modules of the kernel."""
NETLINK_ROUTE = 0
"""The one netlink protocol that there is: resolvers of C libraries ask it for interfaces."""
TERMINAL_REQUESTS = (0x5412, 0x541C, 0x541D, 0x5423)
"""Refused: TIOCSTI, TIOCLINUX type into a terminal; TIOCCONS takes the console; TIOCSETD loads modules."""
SOL_TCP, TCP_ULP = 6, 31
"""Refused: it attaches kernel code (TLS and others) to a connection."""
PTRACE_FILTERS = (0x420C, 0x420D)
"""Refused: PTRACE_SECCOMP_GET_FILTER and GET_METADATA."""
FILTER_OPERATIONS = (0, 2, 3)
"""Of `seccomp`: strict mode and the two queries; a filter (1) is judged by its flags."""
SET_FILTER, FILTER_FLAGS = 1, 0x39
"""Any but LOG, which writes into the machine's log, and SPEC_ALLOW, which weakens the processor."""
FILE_TYPE, DEVICE_TYPES = 0xF000, (0x2000, 0x6000)
"""Of `mknod`: character and block devices are refused."""
PROCESS_OPTIONS = (
    # Not PR_SET_MM (35), PR_SET/GET_IO_FLUSHER (57, 58), PR_SCHED_CORE (62: keeps others off a processor's
    # sibling), PR_SET/GET_MEMORY_MERGE (67, 68: what equal pages save tells of the memory of others).
    *range(1, 35), *range(36, 57), 59, 60, 61, 63, 64, 65, 66, *range(69, 79),
    0x53564D41,  # PR_SET_VMA
    0x59616D61,  # PR_SET_PTRACER
)  # fmt: skip
"""Options of `prctl`."""
