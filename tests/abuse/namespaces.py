"""New namespaces, others' namespaces, users, capabilities and control groups."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from tests.abuse.inside import CAPS, SETTINGS, VIRTUAL, attack, call, in_child, number_of, raw, reaches

USER_NS = "user namespace with one user"
NEWNS, NEWUTS, NEWUSER, NEWPID, NEWNET, FILES = 0x20000, 0x4000000, 0x10000000, 0x20000000, 0x40000000, 0x400


@attack("a user namespace, to be root in it", gvisor=VIRTUAL)
def unshare_user():
    return in_child(lambda: call("unshare", NEWUSER))


@attack("a mount namespace", gvisor=VIRTUAL)
def unshare_mounts():
    return in_child(lambda: call("unshare", NEWNS))


@attack("a table of descriptors of its own, by the call that makes namespaces", gvisor=VIRTUAL)
def unshare_files():
    return in_child(lambda: call("unshare", FILES))


@attack("a time namespace", gvisor=VIRTUAL)
def unshare_time():
    return in_child(lambda: call("unshare", 0x80))


def _clone(flags: int) -> str | None:
    def work() -> str | None:
        pid = raw(number_of("clone"), flags | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return f"clone made {pid}"

    return in_child(work)


@attack("a user namespace by clone", gvisor=VIRTUAL)
def clone_user():
    return _clone(NEWUSER)


@attack("a network namespace by clone", gvisor=VIRTUAL)
def clone_network():
    return _clone(NEWNET)


@attack("a pid namespace by clone, with high bits set that a filter may compare", gvisor=VIRTUAL)
def clone_pid_with_high_bits():
    return _clone(1 << 40 | NEWPID)


@attack("clone3, whose flags no filter can read", gvisor=VIRTUAL)
def clone3():
    def work() -> str:
        pid = raw(number_of("clone3"), struct.pack("8Q", NEWUSER, 0, 0, 0, 17, 0, 0, 0), 64)
        if pid == 0:
            os._exit(0)
        return f"clone3 made {pid}"

    return in_child(work)


@attack("entering the namespaces of the first process", gvisor=VIRTUAL, control=False)
def setns_of_the_first_process():
    def work() -> str:
        with open("/proc/1/ns/mnt") as first:
            return call("setns", first.fileno(), NEWNS)

    return in_child(work)


@attack("the tool unshare", gvisor=VIRTUAL)
def tool_unshare():
    return subprocess.run(["unshare", "-U", "true"], capture_output=True).returncode == 0


@attack("the tool nsenter", "nothing to enter", VIRTUAL, control=False)
def tool_nsenter():
    done = subprocess.run(["nsenter", "-t", "1", "-m", "-u", "true"], capture_output=True)
    return done.returncode == 0


@attack("the tool su, set-user-id root", "no new privileges; set-user-id ignored")
def tool_su():
    done = subprocess.run(["su", "-c", "id -u"], capture_output=True, stdin=subprocess.DEVNULL)
    return done.stdout == b"0\n"


@attack("becoming root", USER_NS)
def setuid_root():
    def become():
        os.setuid(0)
        return f"user {os.getuid()}"

    return in_child(become)


@attack("becoming a member of root's group", USER_NS)
def setgroups_root():
    def become():
        os.setgroups([0])
        return f"groups {os.getgroups()}"

    return in_child(become)


@attack("taking every capability", CAPS, control=False)
def capset_all():
    return in_child(lambda: call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[2**32 - 1, 2**32 - 1, 0, 511, 511, 0])))  # fmt: skip


@attack("holding any capability at the start", CAPS)
def capabilities_held():
    lines = Path("/proc/self/status").read_text().splitlines()
    # In gVisor sandboxes that stay, the bounding set is that of the agent, which no program can take on.
    bound = () if SETTINGS["where"] == "gvisor" else ("CapBnd",)
    held = [line for line in lines if line.startswith(("CapPrm", "CapEff", "CapAmb", *bound))]
    return [line for line in held if int(line.split()[1], 16)]


@attack("mapping more users into the namespace", USER_NS, control=False)
def write_uid_map():
    return Path("/proc/self/uid_map").write_text("0 0 1") and "written"


@attack("allowing setgroups again", USER_NS, control=False)
def write_setgroups():
    return Path("/proc/self/setgroups").write_text("allow") and "written"


@attack("control groups as files, to raise limits", "no sysfs in the sandbox")
def control_group_files():
    found = [str(path) for path in Path("/sys/fs/cgroup").rglob("cgroup.procs")]
    return found[:1]


@attack("mounting control groups (release_agent)", "system call filter", VIRTUAL, control=False)
def mount_control_groups():
    return call("mount", b"cgroup", b"/tmp", b"cgroup", 0, b"memory")


@attack("names of the machine's control groups", "cgroup namespace")
def names_of_control_groups():
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [line for line in lines if line.rpartition(":")[2] != "/" and "init.scope" not in line][:1]


@attack("sysfs", "not mounted")
def sysfs():
    return os.listdir("/sys/kernel")[:3]


@attack("more user namespaces allowed", USER_NS, control=False)
def max_user_namespaces():
    return Path("/proc/sys/user/max_user_namespaces").write_text("1000") and "written"


@attack("leaving a chroot that the sandbox might be", "root is a mount of its own; system call filter", VIRTUAL)
def chroot_escape():
    def work() -> object:
        call("chroot", b"/tmp")
        return "in a chroot of its own"

    return in_child(work)


@attack("unmounting what masks /proc", gvisor=VIRTUAL, control=False)
def unmount_the_masks():
    return reaches("umount2", b"/proc/cmdline", 0)
