"""Files of the host, the read-only system, /proc's windows into the machine, devices."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from tests.abuse.inside import SETTINGS, VIRTUAL, attack, content, in_child

MOUNTS, READ_ONLY, MASKED = "mount namespace", "read-only mounts", "masked"


def _read(
    name: str, tried: str, path: str, by: str = MOUNTS, gvisor: str = "", *, control: bool = True
) -> None:
    def function() -> object:
        return content(path)

    function.__name__, function.__module__ = name, __name__
    attack(tried, by, gvisor, control=control and os.path.exists(path))(function)


def _write(name: str, tried: str, path: str, text: bytes = b"", by: str = READ_ONLY, gvisor: str = "") -> None:
    def function() -> object:
        fd = os.open(path, os.O_WRONLY)
        try:
            return f"opened {path}" if not text else f"wrote {os.write(fd, text)} bytes"
        finally:
            os.close(fd)

    function.__name__, function.__module__ = name, __name__
    attack(tried, by, gvisor, control=not text and path.startswith(("/usr", "/etc", "/proc/sys/kernel/core")))(
        function
    )


_read("passwords_of_the_host", "/etc/shadow", "/etc/shadow")
_read("folder_of_root", "/root", "/root")
_read("private_keys_of_the_host", "/etc/ssl/private", "/etc/ssl/private", control=False)
_read("identity_of_the_host", "/etc/machine-id", "/etc/machine-id")
_read("logs_of_the_host", "/var/log", "/var/log")
_read("packages_of_the_host", "/var/lib/dpkg", "/var/lib/dpkg")
_read("sockets_and_secrets_in_run", "/run", "/run")
_read("memory_of_the_machine", "/dev/mem", "/dev/mem", "no such device", control=False)
_read("disk_of_the_machine", "/dev/vda", "/dev/vda", "no such device", control=False)
_read("log_device_of_the_kernel", "/dev/kmsg", "/dev/kmsg", "no such device", control=False)
_read("memory_image_of_the_kernel", "/proc/kcore", "/proc/kcore", MASKED, VIRTUAL)
_read("command_line_of_the_kernel", "/proc/cmdline", "/proc/cmdline", MASKED, VIRTUAL)
_read("symbols_of_the_kernel", "/proc/kallsyms", "/proc/kallsyms", MASKED, VIRTUAL)
_read("configuration_of_the_kernel", "/proc/config.gz", "/proc/config.gz", MASKED, VIRTUAL)
_read("keys_of_the_machine", "/proc/keys", "/proc/keys", MASKED, VIRTUAL, control=False)
_read("users_with_keys", "/proc/key-users", "/proc/key-users", MASKED, VIRTUAL)
_read("interrupts_to_time_neighbours", "/proc/interrupts", "/proc/interrupts", MASKED, VIRTUAL)
_read("soft_interrupts_to_time_neighbours", "/proc/softirqs", "/proc/softirqs", MASKED, VIRTUAL)
_read("timers_of_the_machine", "/proc/timer_list", "/proc/timer_list", MASKED, VIRTUAL)
_read("locks_on_files_of_others", "/proc/locks", "/proc/locks", MASKED, VIRTUAL, control=False)
_read("disks_of_the_machine", "/proc/diskstats", "/proc/diskstats", MASKED, VIRTUAL)
_read("partitions_of_the_machine", "/proc/partitions", "/proc/partitions", MASKED, VIRTUAL)
_read("file_systems_of_the_machine", "/proc/fs", "/proc/fs", MASKED, VIRTUAL)
_read("memory_map_of_the_machine", "/proc/iomem", "/proc/iomem", MASKED, VIRTUAL)
_read("drivers_of_the_machine", "/proc/driver", "/proc/driver", MASKED, VIRTUAL, control=False)

_write(
    "handler_of_core_dumps",
    "core_pattern, which runs a program as root",
    "/proc/sys/kernel/core_pattern",
    b"",
    "user namespace",
)
_write(
    "loader_of_modules",
    "modprobe's path, which runs as root",
    "/proc/sys/kernel/modprobe",
    b"",
    "user namespace",
)
_write("magic_keys", "/proc/sysrq-trigger", "/proc/sysrq-trigger", b"", "user namespace")
_write("caches_of_the_machine", "drop_caches", "/proc/sys/vm/drop_caches", b"", "user namespace")
_write(
    "loader_of_programs",
    "binfmt_misc, which runs for programs of others",
    "/proc/sys/fs/binfmt_misc/register",
    b"",
    "not mounted",
)
_write("a_program_of_the_system", "/usr/bin/env", "/usr/bin/env")
_write("users_of_the_system", "/etc/passwd", "/etc/passwd")
_write("cache_of_the_loader", "/etc/ld.so.cache", "/etc/ld.so.cache")


@attack("canary file in the host's /tmp", MOUNTS)
def canary_in_tmp():
    return content(SETTINGS["canary"])


@attack("canary file in the host's /dev/shm", MOUNTS)
def canary_in_shared_memory():
    return content(SETTINGS["canary_shm"])


@attack("the folder of the server's program", MOUNTS)
def the_servers_checkout():
    return content(SETTINGS["checkout"])


@attack(
    "the runtime folder of the server, whose name mountinfo tells",
    "mount namespace; closed to others",
    control=False,
)
def runtime_folder_of_the_server():
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    roots = {line.split()[3] for line in lines} - {"/"}
    return [content(root) for root in roots if "unsandbox" in root][:1]


@attack("new files all over the system", READ_ONLY)
def new_files_in_the_system():
    for folder in (
        "/",
        "/etc",
        "/usr",
        "/usr/bin",
        "/dev",
        "/home",
        "/root",
        "/run",
        "/var",
        "/opt",
        "/sys",
        "/proc/fs",
    ):
        try:
            fd = os.open(f"{folder}/abuse", os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError:
            continue
        os.close(fd)
        os.unlink(f"{folder}/abuse")
        return folder
    raise OSError(errno.EROFS, "")


@attack("the system's programs made writable for all", "other user, read-only mounts", control=False)
def change_modes_of_the_system():
    os.chmod("/usr/bin/env", 0o777)
    return "changed"


@attack("mounting the system writable", "system call filter", VIRTUAL, control=False)
def remount_writable():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, b"/usr", None, ctypes.c_ulong(32 | 4096), None) == 0 and os.access("/usr/bin", os.W_OK):
        return "writable"
    raise OSError(ctypes.get_errno(), "")


@attack("a hard link to a file of the system, to change it later", "another mount", control=False)
def hard_link_to_the_system():
    os.link("/usr/bin/env", "/tmp/abuse-link")
    return "linked"


@attack(
    "a program that is set-user-id of its maker, for others to run",
    "mounts ignore set-user-id",
    VIRTUAL,
    control=False,
)
def set_user_id_program():
    flags = {folder: os.statvfs(folder).f_flag for folder in ("/tmp", "/work", "/dev/shm", "/usr")}
    return [folder for folder, flag in flags.items() if not flag & os.ST_NOSUID]


@attack("device nodes in folders of the sandbox", "mounts without devices", VIRTUAL, control=False)
def devices_in_folders():
    flags = {folder: os.statvfs(folder).f_flag for folder in ("/tmp", "/work", "/dev/shm")}
    return [folder for folder, flag in flags.items() if not flag & 4]


@attack(
    "overwriting the program that started the sandbox (runc, CVE-2019-5736)",
    "read-only mounts; not its user",
    control=False,
)
def overwrite_the_runtime():
    for link in ("/proc/1/exe", "/proc/self/exe"):
        with open(link, "r+b"):
            return link
    return None


@attack(
    "out through a folder that the starter left open (runc, CVE-2024-21626)",
    "no descriptor is left open",
    control=False,
)
def leaked_folder():
    for process in ("self", "1"):
        for fd in os.listdir(f"/proc/{process}/fd"):
            path = f"/proc/{process}/fd/{fd}"
            try:
                is_folder = stat.S_ISDIR(os.stat(path).st_mode)
            except OSError:
                continue
            if is_folder and os.readlink(path) not in (f"/proc/{os.getpid()}/fd", "/proc/self/fd"):
                return f"{path} -> {os.readlink(path)}"
    return None


@attack("up and out through ..", MOUNTS)
def dots():
    return content("../" * 40 + SETTINGS["canary"].lstrip("/"))


@attack("the host's root by /proc/1/root", MOUNTS, control=False)
def root_of_the_first_process():
    return content(f"/proc/1/root{SETTINGS['canary']}")


@attack("the host's root by the working folder of the first process", MOUNTS, control=False)
def working_folder_of_the_first_process():
    return content(f"/proc/1/cwd/../../..{SETTINGS['canary']}")


@attack("devices that only the host has", "a /dev of seven devices", control=False)
def other_devices():
    usual = {
        "console",
        "core",
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }
    return sorted(set(os.listdir("/dev")) - usual - {"fuse", "net"})


@attack("a swap of the file behind a masked name", MASKED, VIRTUAL, control=False)
def rename_over_a_mask():
    def rename():
        os.rename("/tmp", "/proc/fs")
        return "renamed"

    return in_child(rename)
