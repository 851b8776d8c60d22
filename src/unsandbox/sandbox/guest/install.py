"""Installs the wheels in `/work/wheels` inside a sandbox; afterwards `/work` has the environment alone.

It prints the version of Python at the end. Python 3.7 or newer, standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENT = "@ENVIRONMENT@"
WORK = Path("/work")
NEW = WORK / "new"


def pip(wheel: Path, *words: str) -> None:
    """Run pip out of its wheel."""
    command = [sys.executable, "-I", str(wheel / "pip"), "--python", str(NEW / "bin" / "python3"), *words]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        sys.stderr.write(result.stdout.decode("utf-8", "replace"))
        sys.exit(1)


def adjust_scripts() -> None:
    """Let scripts name the environment where sandboxes see it."""
    old, new = str(NEW).encode(), ENVIRONMENT.encode()
    for path in (NEW / "bin").iterdir():
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if data.startswith(b"#!" + old) or b"VIRTUAL_ENV" in data:
                path.write_bytes(data.replace(old, new))


def list_fonts() -> None:
    """Let matplotlib list the fonts, which takes seconds."""
    if list(NEW.glob("lib/*/site-packages/matplotlib/font_manager.py")):
        folder = NEW / "share" / "unsandbox" / "matplotlib"
        folder.mkdir(parents=True)
        subprocess.run(
            [str(NEW / "bin" / "python3"), "-I", "-c", "import matplotlib.font_manager"],
            env={**os.environ, "MPLCONFIGDIR": str(folder)},
            check=True,
        )


def main() -> None:
    """Install, compile, and leave the environment in `/work`."""
    venv.create(str(NEW), with_pip=False, symlinks=True)
    wheel = next((WORK / "pip").glob("*.whl"))
    options = ["--no-index", "--no-deps", "--no-compile", "--no-input", "--disable-pip-version-check"]
    options += ["--no-cache-dir", "--root-user-action", "ignore", "--find-links", str(WORK / "wheels")]
    pip(wheel, "install", *options, "--require-hashes", "--requirement", str(WORK / "pinned.txt"))
    pip(wheel, "check")
    adjust_scripts()
    list_fonts()
    # The hash of a file decides nothing at run time: the environment is read-only.
    words = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(NEW), "-p", ENVIRONMENT]
    # Packages may hold files for other versions of Python, which do not compile.
    subprocess.run(
        [sys.executable, "-I", "-m", "compileall", *words, str(NEW / "lib")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    for path in WORK.iterdir():
        if path != NEW:
            shutil.rmtree(str(path)) if path.is_dir() else path.unlink()
    for path in list(NEW.iterdir()):
        if not path.is_symlink() and path.name != "pyvenv.cfg":
            os.rename(str(path), str(WORK / path.name))
    shutil.rmtree(str(NEW))
    sys.stdout.write("{}.{}\n".format(*sys.version_info[:2]))


if __name__ == "__main__":
    main()
