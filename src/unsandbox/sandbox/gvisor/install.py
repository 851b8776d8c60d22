"""Installs gVisor's `runsc` into the engine's own folder, from the Debian mirror that this machine uses.

The release in Debian 12 is too old, but the one in its backports works. apt downloads the package with a
private state and verifies the signature as usual. The package is unpacked without being installed, so the
system does not change, and root is not needed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.gvisor.runsc import NEEDED, VARIABLE, Runsc, examine, own_folder

_PACKAGE = "runsc"
_TIMEOUT_S = 300
_ONE_LINE = re.compile(r"^deb\s+(?P<options>\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s")


def install(folder: Path | None = None, sources: Path = Path("/etc/apt")) -> Runsc:
    """Fetch `runsc`, prove that it is usable, and put it into `folder` (by default the engine's own).

    Args:
        folder: Where it goes.
        sources: Folder with apt's `sources.list` and `sources.list.d`.

    Raises:
        SandboxUnavailable: It cannot be had; the message says why.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SandboxUnavailable(
            f"it is fetched by Debian's apt, which is not here; put a runsc of {NEEDED} or newer on PATH, "
            f"or name it in {VARIABLE}"
        )
    folder = folder or own_folder()
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    problems = []
    with tempfile.TemporaryDirectory(prefix="unsandbox-apt-") as state:
        for suite in (f"{release}-backports", release):
            lines = list(debian_sources(sources, release, suite))
            if not lines:
                raise SandboxUnavailable(f"apt's sources in {sources} name no archive of {release or 'Debian'}")
            try:
                found = examine(_fetch(Path(state, suite), lines))
            except SandboxUnavailable as error:
                problems.append(f"{suite}: {error}")
                continue
            return _put(found, folder)
    raise SandboxUnavailable("; ".join(problems))


def _fetch(state: Path, lines: list[str]) -> Path:
    """Download and unpack the package below `state`; return the program."""
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (state / name).mkdir(parents=True)
    source_list = state / "sources.list"
    source_list.write_text("\n".join(lines) + "\n")
    options = {
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": source_list,
        "Dir::Etc::sourceparts": "/dev/null",
        # The folder is private, also to apt's own user.
        "APT::Sandbox::User": "root",
        "Acquire::Retries": "3",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], state)
    _run([*apt, "download", _PACKAGE], state)
    packages = list(state.glob(f"{_PACKAGE}_*.deb"))
    if not packages:
        raise SandboxUnavailable("apt-get downloaded nothing")
    _run(["dpkg", "-x", str(packages[0]), str(state / "root")], state)
    return state / "root" / "usr" / "bin" / "runsc"


def _put(found: Runsc, folder: Path) -> Runsc:
    try:
        for parent in (*reversed(folder.parents), folder):
            if not parent.exists():
                parent.mkdir(mode=0o755)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file, found.path.open("rb") as source:
            shutil.copyfileobj(source, file)
        temporary = Path(file.name)
        temporary.chmod(0o755)
        temporary.replace(folder / "runsc")
    except OSError as error:
        raise SandboxUnavailable(f"cannot write to {folder}: {error.strerror}") from error
    return Runsc(folder / "runsc", found.version)


def _run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SandboxUnavailable(f"{command[0]} took longer than {_TIMEOUT_S} s") from None
    if done.returncode:
        raise SandboxUnavailable(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def debian_sources(folder: Path, release: str, suite: str) -> Iterator[str]:
    """Yield one-line sources for `suite` on every mirror that the machine's sources name for `release`."""
    seen = set()
    for options, uri in _mirrors(folder, release):
        line = f"deb {options}{uri} {suite} main"
        if line not in seen:
            seen.add(line)
            yield line


def _mirrors(folder: Path, release: str) -> Iterator[tuple[str, str]]:
    parts = folder / "sources.list.d"
    for path in (folder / "sources.list", *sorted(parts.glob("*.list"))):
        for line in _text(path).splitlines():
            if (match := _ONE_LINE.match(line)) and match["suite"] == release:
                yield match["options"] or "", match["uri"]
    for path in sorted(parts.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", _text(path)):
            fields = _fields(stanza)
            if release not in fields.get("suites", "").split() or fields.get("enabled", "yes") == "no":
                continue
            key = fields.get("signed-by", "")
            # A key may be written out in the stanza; apt's general keys must do then.
            options = f"[signed-by={key}] " if key.startswith("/") else ""
            for uri in fields.get("uris", "").split():
                yield options, uri


def _fields(stanza: str) -> dict[str, str]:
    lines = [line for line in stanza.splitlines() if not line.startswith("#")]
    pairs = (line.partition(":") for line in lines if line[:1].strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
