"""A Debian guest with systemd and control groups v2, as a process of User Mode Linux: no KVM, one processor, no network.

Building it takes root, packages of Debian, and some minutes. The guest takes commands from a folder that it shares
with the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from pathlib import Path

from tests.support import REPO

SUITE = "trixie"
USER = "ana"
PROJECT = "/srv/unsandbox"
PACKAGES = (
    "systemd systemd-sysv dbus dbus-user-session libpam-systemd udev sudo procps util-linux kmod iproute2 "
    "ca-certificates python3 python3-venv git make uidmap zstd slirp4netns e2fsprogs curl openssl podman crun"
)
SHARE = "/share"
RUNNER = f"""#!/bin/bash
mkdir -p {SHARE}; mountpoint -q {SHARE} || mount -t hostfs -o "$1" none {SHARE}
ip link set lo up; modprobe tun; chmod 666 /dev/net/tun; touch {SHARE}/ready
while sleep 0.3; do
  for script in {SHARE}/*.todo; do
    [ -e "$script" ] || continue
    name=${{script%.todo}}; mv "$script" "$name.sh"
    (setsid bash "$name.sh" >"$name.out" 2>&1 </dev/null; echo $? >"$name.rc.new"; mv "$name.rc.new" "$name.rc") &
  done
done
"""
UNIT = """[Service]
ExecStart=/usr/local/sbin/runner {share}
KillMode=process
StandardOutput=null
[Install]
WantedBy=multi-user.target
"""
_BOOT_S, _OFF_S = 300, 60


class Guest:
    """One guest.

    Args:
        work: Folder for its image and logs, a few gigabytes.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.share = work / "share"
        self._kernel = work / "kernel" / "usr"
        self._process: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        """Build the image, unless there is one."""
        if (self.work / "image").exists():
            return
        if shutil.which("mmdebstrap") is None:
            _apt("install", "-y", "--no-install-recommends", "mmdebstrap")
        root = self.work / "root"
        self.share.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", "user-mode-linux"], cwd=self.work, check=True)
        package = next(self.work.glob("user-mode-linux_*.deb"))
        subprocess.run(["dpkg", "-x", package, self.work / "kernel"], check=True)
        # The date of a machine may be far from that of the mirror.
        options = [f'--aptopt=Acquire::Check-{name} "false"' for name in ("Valid-Until", "Date")]
        subprocess.run(
            ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES.split())}", *options,
             "--keyring=/usr/share/keyrings", "--dpkgopt=force-unsafe-io", SUITE, root, "-"],
            input=f"deb {_mirror()} {SUITE} main\n", text=True, check=True,
        )  # fmt: skip
        self._furnish(root)
        image = self.work / "image.new"
        with image.open("wb") as file:
            file.truncate(8 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, image], check=True)
        image.rename(self.work / "image")
        shutil.rmtree(root)

    def _furnish(self, root: Path) -> None:
        for name in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            shutil.copy(name, root / "usr/local/share/ca-certificates")
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        shutil.copytree(self._kernel / "lib/uml/modules", root / "usr/lib/modules", dirs_exist_ok=True)
        (root / "etc/fstab").write_text("/dev/ubda / ext4 defaults,noatime 0 0\n")
        (root / "etc/systemd/system/runner.service").write_text(UNIT.format(share=self.share))
        runner = root / "usr/local/sbin/runner"
        runner.write_text(RUNNER)
        runner.chmod(0o755)
        project = root / PROJECT[1:]
        project.mkdir(parents=True)
        archive = subprocess.run(["git", "-C", REPO, "archive", "HEAD"], stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", project], input=archive.stdout, check=True)
        pip = "env PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
        for command in (
            "update-ca-certificates",
            f"useradd -m -s /bin/bash {USER}",
            f"chown -R {USER}: {PROJECT}",
            f"runuser -u {USER} -- {pip} {PROJECT}/scripts/bootstrap",
            "systemctl -q enable runner",
        ):
            subprocess.run(["chroot", root, *command.split()], check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Boot, on a fresh copy of the image, and bring the sources of this clone."""
        for old in [self.work / "changes", *self.share.iterdir()]:
            old.unlink(missing_ok=True)
        with (self.work / "console.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._kernel / "bin/linux.uml", "mem=3G", "ubd0=changes,image", "root=/dev/ubda", "rw", "con=null",
                 "con0=null,fd:2"],
                cwd=self.work, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"TMPDIR": "/dev/shm"},
            )  # fmt: skip
        _wait((self.share / "ready").exists, _BOOT_S)
        subprocess.run(
            ["tar", "-c", "--exclude=__pycache__", "-f", self.share / "sources.tar", "src", "tests"],
            cwd=REPO,
            check=True,
        )
        self.run(
            f"cd {PROJECT} && rm -rf src tests && tar xf {SHARE}/sources.tar && chown -R {USER}: src tests"
        )

    def run(self, script: str, timeout_s: float = 300) -> str:
        """Run a script as root; return its output."""
        name = uuid.uuid4().hex
        (self.share / f"{name}.new").write_text(script)
        (self.share / f"{name}.new").rename(self.share / f"{name}.todo")
        _wait((self.share / f"{name}.rc").exists, timeout_s)
        return (self.share / f"{name}.out").read_text("utf-8", "replace")

    def stop(self) -> None:
        """Switch it off."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                self.run("systemctl poweroff", 5)
            try:
                self._process.wait(_OFF_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, 9)
                self._process.wait()
            self._process = None


def _wait(done, most_s: float) -> None:
    give_up = time.monotonic() + most_s
    while not done():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not done within {most_s:g} s")
        time.sleep(0.2)


def _apt(*words: str) -> None:
    for command in (["update"], list(words)):
        subprocess.run(
            ["apt-get", "-qq", *command], check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )


def _mirror() -> str:
    """Return the address of this machine's Debian mirror."""
    for source in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        if source.exists():
            for word in source.read_text().split():
                if word.startswith("http") and word.rstrip("/").endswith("/debian"):
                    return word
    raise RuntimeError("no Debian mirror in the sources of apt")
