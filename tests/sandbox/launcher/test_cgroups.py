"""Tests of control groups, on folders that only look like them; `tests/hosts` has those on real kernels."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from unsandbox.sandbox.launcher import cgroups, delegation, hierarchy, systemd


def v2_tree(tmp_path, controllers="cpu memory pids", enabled="memory pids cpu"):
    base = tmp_path / "own"
    base.mkdir()
    (base / "cgroup.controllers").write_text(controllers)
    (base / "cgroup.subtree_control").write_text(enabled)
    (base / "cgroup.procs").write_text("")
    mountinfo = f"30 20 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    return base, mountinfo, "0::/own\n"


def test_bases_of_v2(tmp_path):
    base, mountinfo, own = v2_tree(tmp_path)
    assert hierarchy.find_bases(mountinfo, own) == (2, dict.fromkeys(("memory", "pids", "cpu"), base))


def test_bases_of_v1_with_controllers_mounted_together(tmp_path):
    mountinfo = "".join(
        f"3{i} 20 0:3{i} / {tmp_path}/{name} rw,nosuid - cgroup cgroup rw,{name}\n"
        for i, name in enumerate(("memory", "cpu,cpuacct", "pids", "name=systemd"))
    )
    for name in ("memory/a/b", "cpu,cpuacct", "pids"):
        (tmp_path / name).mkdir(parents=True)
    version, bases = hierarchy.find_bases(mountinfo, "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/gone\n0::/\n")
    assert version == 1
    both = tmp_path / "cpu,cpuacct"
    assert bases == {
        "memory": tmp_path / "memory/a/b",
        "cpu": both,
        "cpuacct": both,
        "pids": tmp_path / "pids",
    }


def test_bases_in_a_container_that_sees_a_part(tmp_path):
    (tmp_path / "sub").mkdir()
    mountinfo = f"30 20 0:26 /docker/1 {tmp_path} rw - cgroup cgroup rw,memory\n"
    assert hierarchy.find_bases(mountinfo, "4:memory:/docker/1/sub\n") == (1, {"memory": tmp_path / "sub"})
    assert hierarchy.find_bases(mountinfo, "4:memory:/elsewhere\n") == (1, {"memory": tmp_path})


def test_hybrid_machines_use_v1_where_v2_has_no_memory(tmp_path):
    _, mountinfo, own = v2_tree(tmp_path, controllers="hugetlb")
    mountinfo += f"31 20 0:27 / {tmp_path}/own rw - cgroup cgroup rw,memory\n"
    assert hierarchy.find_bases(mountinfo, own + "4:memory:/\n")[0] == 1


def test_no_control_groups(tmp_path):
    assert hierarchy.open_hierarchy("x", "", "") == (None, delegation.Refusal("not-mounted"))
    mountinfo = f"30 20 0:26 / {tmp_path}/missing rw - cgroup cgroup rw,memory\n"
    found, refusal = hierarchy.open_hierarchy("x", mountinfo, "4:memory:/\n")
    assert found is None
    assert refusal.why == "denied"


def test_a_group_of_v2(tmp_path, monkeypatch):
    base, mountinfo, own = v2_tree(tmp_path)
    monkeypatch.setattr(hierarchy, "write", lambda path, text: Path(path).write_text(text))
    monkeypatch.setattr(cgroups, "write", lambda path, text: Path(path).write_text(text))
    found, _ = hierarchy.open_hierarchy("unsandbox-1-a", mountinfo, own)
    assert (found.version, found.controllers()) == (2, ["cpu", "memory", "pids"])
    group = cgroups.Group(found, "job-1")
    group.create(cgroups.Bounds(memory_bytes=1000, processes=7, vcpu=1.5))
    folder = base / "unsandbox-1-a" / "job-1"
    settings = {path.name: path.read_text() for path in folder.iterdir()}
    assert settings == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "pids.max": "10",
        "cpu.max": "150000 100000",
    }
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (folder / "memory.peak").write_text("777\n")
    (folder / "memory.events").write_text("oom 2\noom_kill 1\n")
    assert group.usage() == cgroups.Usage(1.5, 777, 1)
    assert not group.remove()
    for path in folder.iterdir():
        path.unlink()
    assert group.remove()
    assert group.remove()


class Kernel:
    """Files that behave like those of v2 groups: processes move, and a group with processes has no controllers."""

    def __init__(self, base: Path, members: str, *, refuses: bool = False) -> None:
        self.base = base
        self.refuses = refuses
        (base / "cgroup.procs").write_text(members)
        (base / "cgroup.subtree_control").write_text("")
        (base / "cgroup.type").write_text("domain\n")
        # The groups above belong to others.
        (base.parent / "cgroup.procs").write_text("")
        self.before = self.state()

    def state(self) -> dict[str, str]:
        return {str(path): path.read_text() for path in sorted(self.base.rglob("*")) if path.is_file()}

    def write(self, path, text):
        path = Path(path)
        if path.name == "cgroup.procs":
            for other in self.base.rglob("cgroup.procs"):
                left = [pid for pid in other.read_text().split() if pid != text]
                other.write_text("".join(f"{pid}\n" for pid in left))
            with path.open("a") as file:
                file.write(f"{text}\n")
            return
        if path == self.base / "cgroup.subtree_control" and "+" in text:
            if self.refuses or (self.base / "cgroup.procs").read_text():
                raise OSError(16, "busy")
            text = text.replace("+", "")
        elif path == self.base / "cgroup.subtree_control":
            text = ""
        path.write_text(text)

    def remove_folder(self, folder):
        assert not (folder / "cgroup.procs").read_text()
        (folder / "cgroup.procs").unlink()
        folder.rmdir()
        return True


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    def start(members: str, *, systemd_runs: bool = False, delegated: bool = False, refuses: bool = False):
        base, mountinfo, own = v2_tree(tmp_path, enabled="")
        found = Kernel(base, members, refuses=refuses)
        monkeypatch.setattr(delegation, "write", found.write)
        monkeypatch.setattr(hierarchy, "write", found.write)
        monkeypatch.setattr(delegation, "remove_folder", found.remove_folder)
        monkeypatch.setattr(delegation, "systemd_runs", lambda: systemd_runs)
        if delegated:
            monkeypatch.setattr(delegation, "is_delegated", lambda base: True)
        return found, lambda: hierarchy.open_hierarchy("unsandbox-1-a", mountinfo, own)

    return start


@pytest.mark.parametrize(
    "members",
    [
        "1\n2\n",
        # Of another pid namespace.
        "0\n",
    ],
)
def test_a_v2_group_with_foreign_processes_is_not_touched(kernel, members):
    files, start = kernel(members)
    found, refusal = start()
    assert found is None
    assert refusal == delegation.Refusal("shared", str(files.base))
    assert files.state() == files.before


def test_a_group_of_a_service_manager_is_not_touched_even_if_the_server_is_alone(kernel):
    files, start = kernel(f"{os.getpid()}\n", systemd_runs=True)
    assert start()[1].why == "shared"
    assert files.state() == files.before


@pytest.mark.parametrize("kind", ["domain threaded", "domain invalid", "threaded"])
def test_a_group_of_threads_is_not_touched(kernel, kind):
    files, start = kernel(f"{os.getpid()}\n", delegated=True)
    (files.base / "cgroup.type").write_text(f"{kind}\n")
    before = files.state()
    assert start()[1].why == "threaded"
    assert files.state() == before


def test_without_the_memory_controller_nothing_is_touched(kernel):
    files, start = kernel(f"{os.getpid()}\n", delegated=True)
    (files.base / "cgroup.controllers").write_text("cpu pids")
    before = files.state()
    assert start()[1].why == "no-memory"
    (files.base.parent / "cgroup.controllers").write_text("cpu memory pids")
    assert start()[1].why == "no-controllers"
    assert files.state() == before


@pytest.mark.parametrize(("others", "delegated"), [("", False), ("1\n2\n", True)])
def test_a_group_of_our_own_makes_room_for_children_and_is_given_back(kernel, others, delegated):
    files, start = kernel(f"{others}{os.getpid()}\n", delegated=delegated)
    found, refusal = start()
    assert refusal is None
    assert found.controllers() == ["cpu", "memory", "pids"]
    leaf = files.base / delegation.LEAF
    assert sorted((leaf / "cgroup.procs").read_text().split()) == sorted(files_of(files.before))
    # While another server has its group there, nothing changes.
    delegation.give_back(files.base)
    assert leaf.exists()
    for path in found.folders()[0].iterdir():
        path.unlink()
    found.folders()[0].rmdir()
    delegation.give_back(files.base)
    assert not leaf.exists()
    assert sorted(files_of(files.state())) == sorted(files_of(files.before))
    assert (files.base / "cgroup.subtree_control").read_text() == ""


def files_of(state: dict[str, str]) -> list[str]:
    return next(text for path, text in state.items() if path.endswith("own/cgroup.procs")).split()


def test_a_group_that_refuses_is_as_before(kernel):
    files, start = kernel(f"{os.getpid()}\n", delegated=True, refuses=True)
    assert start()[1].why == "denied"
    assert files.state() == files.before


def test_a_server_in_the_leaf_uses_the_group_above(kernel, monkeypatch, tmp_path):
    files, start = kernel("", delegated=True)
    start()
    own, mountinfo = "0::/own/unsandbox-server\n", f"30 20 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    (files.base / delegation.LEAF).mkdir(exist_ok=True)
    found, _ = hierarchy.open_hierarchy("unsandbox-2-b", mountinfo, own)
    assert found.folders() == [files.base / "unsandbox-2-b"]


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("0::/system.slice/a.service\n", "system.slice"),
        ("1:name=systemd:/x.slice\n0::/user.slice/user-0.slice/session-1.scope\n", "user-0.slice"),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_a_scope_goes_to_the_slice_of_its_server(own, name):
    assert systemd.slice_of(own) == name


def test_without_systemd_no_scope_is_asked_for(monkeypatch):
    monkeypatch.setattr(systemd, "systemd_runs", lambda: False)
    with pytest.raises(delegation.NotDelegated) as caught:
        systemd.enter_scope("unsandbox-1-a", "")
    assert caught.value.refusal.why == "no-systemd"


def test_memory_of_a_family():
    child = subprocess.Popen(["sh", "-c", "sleep 100 & echo x; wait"], stdout=subprocess.PIPE)
    try:
        child.stdout.readline()
        family = cgroups.members(child.pid)
        assert len(family) == 2
        assert 0 < cgroups.held_memory(child.pid) < 50 << 20
    finally:
        for pid in family:
            os.kill(pid, signal.SIGKILL)
        child.communicate()
    assert cgroups.held_memory(child.pid) == 0
