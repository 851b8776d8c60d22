"""Downloads the packages of an environment: wheels only, so that no code of a package runs on the host.

pip does this with the host's own configuration: index, mirror, proxy, certificates and passwords stay outside
of sandboxes, and the sandbox that installs needs no network.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unsandbox.engine.environments.store import Package, hash_of
from unsandbox.errors import EngineError
from unsandbox.sandbox.system import System

MAX_REQUIREMENTS = 1000
MAX_DOWNLOAD = 4 << 30
"""Bytes of all wheels together."""
_TIMEOUT_S = 900.0
_SHOWN = 2000
_CLAUSE = r"(?:===|~=|==|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"  # name
    r"(?:\s*\[[A-Za-z0-9._,\s-]*\])?"  # extras
    rf"(?:\s*{_CLAUSE}(?:\s*,\s*{_CLAUSE})*)?"
    r"(?:\s*;[^@/\\]{1,500})?"  # marker
    r"(?:\s+--hash=sha256:[0-9a-f]{64})*"
)
_OPTIONS = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--only-binary", ":all:")


def read_requirements(text: str) -> list[str]:
    r"""Return the requirements of a file as pip reads it.

    Raises:
        EngineError: A line is no plain requirement: an option, a URL, a path, another file.

    Example:
        >>> read_requirements("numpy>=2  # arrays\n\npandas[excel]==2.2.3 ; python_version > '3.9'\n")
        ['numpy>=2', "pandas[excel]==2.2.3 ; python_version > '3.9'"]
    """
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in re.sub(r"\\\r?\n", " ", text).splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise EngineError("the requirements name no package")
    if len(found) > MAX_REQUIREMENTS:
        raise EngineError(f"{len(found)} requirements; at most {MAX_REQUIREMENTS} are allowed")
    for line in found:
        if not _REQUIREMENT.fullmatch(line):
            raise EngineError(
                f"{line[:200]!r} is not supported: give the name of a package, extras, versions, a marker; "
                "options, URLs and paths belong in pip's configuration (`pip config`)"
            )
    return found


def download(requirements: Sequence[str], folder: Path, system: System) -> list[Path]:
    """Download the wheels of requirements, and of the packages that they need.

    Args:
        requirements: The requirements, from `read_requirements`.
        folder: Where the wheels go.
        system: The sandboxes' system, whose Python they are for.

    Returns:
        The wheels.

    Raises:
        EngineError: A package does not exist or has no wheel for this Python, or pip is missing.
    """
    file = folder.parent / "requirements.txt"
    file.write_text("".join(f"{line}\n" for line in requirements))
    python = system.usr / "bin" / "python3"
    _pip("--python", str(python), "download", *_OPTIONS, "--dest", str(folder), "--requirement", str(file))
    found = sorted(folder.iterdir())
    if any(path.suffix != ".whl" for path in found):
        raise EngineError("pip downloaded something that is not a wheel")
    return found


def download_pip(folder: Path) -> Path:
    """Download the wheel of pip, which installs the others inside the sandbox."""
    _pip("download", *_OPTIONS, "--no-deps", "--dest", str(folder), "pip")
    return next(folder.glob("pip-*.whl"))


def package_of(wheel: Path) -> Package:
    """Return the package of a wheel.

    Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    """
    name, version = wheel.name.split("-")[:2]
    return Package(name=re.sub(r"[-_.]+", "-", name).lower(), version=version, sha256=hash_of(wheel))


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=_TIMEOUT_S)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise EngineError(f"pip did not end within {_TIMEOUT_S:g} s") from None
        raise
    if process.returncode != 0:
        if "No module named pip" in said:
            raise EngineError(f"pip is missing; install it: {sys.executable} -m ensurepip")
        errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
        raise EngineError("the packages could not be downloaded: " + "\n".join(errors)[-_SHOWN:])
