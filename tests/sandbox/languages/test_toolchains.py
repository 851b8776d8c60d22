"""A folder of toolchains: packages unpacked, their scripts run apart from the host, what apt is told."""

import hashlib
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.support import REPO

from unsandbox.errors import EngineError
from unsandbox.sandbox import System, load_languages, rootfs
from unsandbox.sandbox.languages.toolchains import Installer
from unsandbox.sandbox.languages.toolchains.apt import PrivateApt, UnknownPackagesError
from unsandbox.sandbox.languages.toolchains.tree import Tree
from unsandbox.sandbox.system import COMPLETE

SCRIPT = """#!/bin/sh
set -e
id -u >/usr/share/tool-user
echo "$DPKG_MAINTSCRIPT_PACKAGE $1" >/usr/share/tool-said
cat /proc/net/dev >/usr/share/tool-network
test ! -e /host-canary
chown nobody:nogroup /usr/bin/tool
"""


@pytest.fixture
def tree(small_system, tmp_path):
    made = Tree(small_system.root, rootfs.install_program(tmp_path))
    made.prepare()
    return made


def package(tmp_path, script=SCRIPT, name="tool"):
    source = tmp_path / f"{name}-source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nInstalled-Size: 100\nMaintainer: T <t@example.org>\nDescription: a tool\n"
    )
    (source / "DEBIAN/postinst").write_text(script)
    (source / "DEBIAN/postinst").chmod(0o755)
    (source / "bin").mkdir()
    (source / "bin" / name).write_text("#!/bin/sh\necho tool\n")
    (source / "bin" / name).chmod(0o4755)
    (source / "usr/share/doc/tool").mkdir(parents=True)
    (source / "usr/share/doc/tool/long").write_text("read me")
    archive = tmp_path / f"{name}_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", source, archive], check=True, capture_output=True
    )
    return archive


def test_a_package_is_unpacked_and_configured(tree, tmp_path):
    assert tree.unpack(package(tmp_path)) == "tool"
    assert "Status: install ok unpacked" in tree.status.read_text()
    assert tree.configure("tool", "all") is None
    assert "Status: install ok installed" in tree.status.read_text()
    share = tree.root / "usr/share"
    assert (share / "tool-user").read_text() == "0\n"
    assert (share / "tool-said").read_text() == "tool configure\n"
    assert [line.split(":")[0].strip() for line in (share / "tool-network").read_text().splitlines()[2:]] == [
        "lo"
    ]
    assert not (share / "doc/tool/long").exists()
    assert (tree.root / "bin").is_symlink(), "the package brings a folder of that name"
    assert "/bin/tool" in (tree.root / "var/lib/dpkg/info/tool.list").read_text().splitlines()
    assert Tree(tree.root, tmp_path).status.read_text().count("Package: tool") == 1


def test_no_file_gives_rights_to_users_of_the_host(tree, tmp_path):
    tree.unpack(package(tmp_path))
    tool = tree.root / "usr/bin/tool"
    tool.chmod(0o6755)
    tree.disarm()
    assert tool.stat().st_mode & 0o7777 == 0o755


def test_a_script_that_fails_is_told_and_not_fatal(tree, tmp_path):
    tree.unpack(package(tmp_path, "#!/bin/sh\necho no luck\nexit 3\n"))
    assert tree.configure("tool", "all") == "no luck"
    assert "Status: install ok installed" in tree.status.read_text()


def test_a_broken_archive_is_an_error(tree, tmp_path):
    (tmp_path / "x_1_all.deb").write_bytes(b"no archive")
    with pytest.raises(EngineError, match="dpkg-deb"):
        tree.unpack(tmp_path / "x_1_all.deb")


def test_scripts_see_nothing_of_the_host(tree):
    assert tree.run(["sh", "-c", 'test -z "$(ls -A /home; ls -A /root)" && test ! -e /etc/shadow']) is None
    assert tree.run(["sh", "-c", "echo $HOME $PATH; false"]).startswith("/tmp /tmp/fakes:")


@pytest.mark.root
def test_a_folder_that_sandboxes_cannot_enter_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(EngineError, match="who cannot enter"):
        Installer(tmp_path / "closed/toolchains", tmp_path)


def local_source(source, *archives):
    """Make a folder of packages with the list that apt reads."""
    source.mkdir()
    listed = ""
    for archive in archives:
        subprocess.run(["cp", archive, source], check=True)
        fields = subprocess.run(["dpkg-deb", "-f", archive], capture_output=True, text=True, check=True).stdout
        listed += (
            f"{fields}Filename: ./{archive.name}\nSize: {archive.stat().st_size}\n"
            f"SHA256: {hashlib.sha256(archive.read_bytes()).hexdigest()}\n\n"
        )
    (source / "Packages").write_text(listed)
    return source


def local_apt(tmp_path, archive, status):
    """Apt that knows one package, of a source on this disk, and nothing of the network."""
    source = local_source(tmp_path / "source", archive)
    apt = PrivateApt(tmp_path / "work", status)
    settings = tmp_path / "work/apt.conf"
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{source} ./\n")
    settings.write_text(
        settings.read_text() + f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
    )
    return apt


@pytest.fixture
def apt(tmp_path, monkeypatch):
    monkeypatch.setattr("unsandbox.sandbox.languages.toolchains.apt.ESSENTIAL", ())
    folder = tmp_path / "apt"
    folder.mkdir()
    (folder / "status").touch()
    made = local_apt(folder, package(tmp_path), folder / "status")
    made.update(lambda _: None)
    return made


def test_apt_plans_without_touching_the_host(apt):
    before = Path("/var/lib/dpkg/status").stat().st_mtime_ns
    assert apt.has_lists()
    plan = apt.plan(["tool"])
    assert [(step.action, step.package) for step in plan.steps] == [("Inst", "tool"), ("Conf", "tool")]
    assert plan.files == ["tool_1.0_all.deb"]
    with pytest.raises(UnknownPackagesError) as caught:
        apt.plan(["tool", "no-such-tool"])
    assert caught.value.packages == ("no-such-tool",)
    assert plan.disk_bytes == 100 << 10
    assert Path("/var/lib/dpkg/status").stat().st_mtime_ns == before


def test_this_apt_cannot_install_on_the_host(apt):
    """Dpkg knows the host alone, whatever apt was told of another database."""
    with pytest.raises(EngineError, match="this apt installs nothing"):
        apt.run(["apt-get", "--yes", "install", "tool"])
    assert subprocess.run(["dpkg", "--status", "tool"], capture_output=True, check=False).returncode == 1


def test_each_language_says_how_to_get_it():
    table = load_languages()
    without = {name for name, language in table.items() if not language.can_be_installed}
    assert without == {"dart", "dotnet", "fsharp", "julia", "powershell", "swift", "v"}
    for language in table.values():
        assert ("un languages install" in language.how_to_get()) == language.can_be_installed


def test_one_installer_at_a_time_and_the_lock_is_private():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, tempfile.TemporaryDirectory() as scratch:
        folder = Path(name)
        folder.chmod(0o755)
        with Installer(folder / "tools", Path(scratch)).locked() as installer:
            assert (folder / "tools/.install").stat().st_mode & 0o777 == 0o700
            second = subprocess.run(["flock", "-n", folder / "tools/.install/lock", "true"], check=False)
            assert second.returncode == 1
            assert installer.estimate([]).nothing_to_do


def test_an_installation_goes_on_where_it_was_killed(small_system, tmp_path):
    folder = small_system.root
    packages = [package(tmp_path, name=name, script="#!/bin/sh\n") for name in ("tool", "other")]
    source = local_source(tmp_path / "source", *packages)

    def install(step=""):
        scratch = tmp_path / secrets.token_hex(4)
        scratch.mkdir()
        return subprocess.run(
            [sys.executable, "-m", "tests.sandbox.languages.installing", folder, str(scratch), source, step],
            cwd=REPO, capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip

    for step in ("unpacking other", "configuring other"):
        assert install(step).returncode == -signal.SIGKILL, step
        assert not (folder / COMPLETE).exists(), "it is not used half done"
    shutil.rmtree(source)
    done = install()
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["numbers"] == [0, 0, 0], "all had been fetched and unpacked"
    assert said["installed"] == ["tool"]
    assert "configuring other" in said["told"]
    assert System(folder).has_program("tool")
    again = install()
    assert json.loads(again.stdout) == {"numbers": [0, 0, 0], "installed": [], "told": []}


def test_what_another_process_has_installed_is_not_forgotten(tree, tmp_path):
    late = Tree(tree.root, tmp_path)
    tree.unpack(package(tmp_path))
    late.reload()
    late.unpack(package(tmp_path, name="other"))
    assert [line for line in tree.status.read_text().splitlines() if line.startswith("Package")] == [
        "Package: tool",
        "Package: other",
    ]
