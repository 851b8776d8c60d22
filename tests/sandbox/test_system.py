"""Where the sandboxes' `/usr` comes from: the host, or a folder whose links must not lead out of it."""

import os

import pytest
from tests.sandbox.small_system import PROGRAMS

from unsandbox.errors import EngineError
from unsandbox.sandbox import BubblewrapBackend, SandboxSpec, System, find_system
from unsandbox.sandbox.system import COMPLETE, HOST, default_folder


@pytest.fixture
def folder(tmp_path):
    for name in ("usr/bin", "usr/local/bin", "etc/alternatives", "opt/tool"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def program(path):
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_absolute_links_stay_in_the_folder(folder):
    program(folder / "opt/tool/run")
    (folder / "etc/alternatives/tool").symlink_to("/opt/tool/run")
    (folder / "usr/bin/tool").symlink_to("/etc/alternatives/tool")
    (folder / "usr/bin/sh").symlink_to("/bin/sh")
    (folder / "usr/bin/up").symlink_to("../../../../../../etc/passwd")
    system = System(folder)
    assert system.path("/usr/bin/tool") == folder / "opt/tool/run"
    assert system.has_program("tool")
    assert not system.has_program("sh"), "it is the host's"
    assert system.path("/usr/bin/up") == folder / "etc/passwd"


def test_a_loop_of_links_ends(folder):
    (folder / "usr/bin/a").symlink_to("b")
    (folder / "usr/bin/b").symlink_to("/usr/bin/a")
    assert not System(folder).has_program("a")


def test_patterns_match_what_is_there(folder):
    (folder / "etc/tool-1").mkdir()
    (folder / "etc/tool-2").symlink_to("/etc/nowhere")
    (folder / "etc/tool-3").symlink_to("/etc/tool-1")
    assert System(folder).existing(["/etc/tool-*", "/etc/alternatives", "/etc/other"]) == [
        "/etc/tool-1",
        "/etc/tool-3",
        "/etc/alternatives",
    ]


def test_which_system_is_chosen(folder, monkeypatch):
    monkeypatch.delenv("UNSANDBOX_TOOLCHAINS", raising=False)
    monkeypatch.setattr("unsandbox.sandbox.system.default_folder", lambda: folder)
    assert find_system("host") == HOST
    assert find_system() == find_system("auto") == HOST
    with pytest.raises(EngineError, match="un languages install"):
        find_system(str(folder))
    (folder / COMPLETE).write_text("{}")
    assert find_system() == find_system("auto") == find_system(str(folder)) == System(folder)
    monkeypatch.setenv("UNSANDBOX_TOOLCHAINS", "host")
    assert find_system() == HOST
    assert find_system("auto") == System(folder)


def test_the_default_folder_can_be_entered_by_the_users_of_sandboxes():
    folder = default_folder()
    assert (
        folder.is_relative_to("/var/lib")
        if os.geteuid() == 0
        else folder.is_relative_to(os.path.expanduser("~"))
    )


async def test_a_sandbox_sees_the_folder_and_not_the_host(small_system):
    folder = small_system.root
    (folder / "usr/share/only-here").mkdir(parents=True)
    (folder / "etc/tool").mkdir(parents=True)
    (folder / "etc/tool/settings").write_text("of the folder\n")
    async with BubblewrapBackend(system=small_system) as backend:
        script = "ls /usr/share; read -r line </etc/tool/settings; echo $line; ls /usr/bin"
        job = await backend.start(SandboxSpec(run=["sh", "-c", script], system_paths=["/etc/t*"]))
        outcome = await job.wait()
    assert outcome.stdout.data.decode().splitlines() == ["only-here", "of the folder", *PROGRAMS], (
        outcome.stderr.data
    )
