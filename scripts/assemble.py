"""Assemble the programs in src/unsandbox/sandbox/native and write their machine code into a Python module.

Needs GNU binutils: `as` and `objcopy` for this machine, and those for another one under their usual prefix
(Debian: binutils-aarch64-linux-gnu). A program whose assembler is missing keeps the code that it has.

    python scripts/assemble.py            write machine_code.py anew
    python scripts/assemble.py --check    compare instead; exit status 1 when something differs
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from unsandbox.sandbox.launcher import fd_numbers
from unsandbox.sandbox.native import machine_code
from unsandbox.sandbox.zygote import lockdown
from unsandbox.sandbox.zygote import main as zygote

FOLDER = Path(__file__).resolve().parent.parent / "src" / "unsandbox" / "sandbox" / "native"
MODULE = FOLDER / "machine_code.py"
SYMBOLS = {
    "CONTROL_FD": fd_numbers.CONTROL_FD,
    "LIFE_FD": fd_numbers.LIFE_FD,
    "READY_FD": fd_numbers.READY_FD,
    "PROGRAM": zygote.PROGRAM_NUMBER,
    "ENDING": zygote.ENDING_SIGNAL,
    "HEADER_WORDS": lockdown.HEADER_WORDS,
    "STEP_WORDS": lockdown.STEP_WORDS,
}
HEAD = '''"""Machine code of the programs in this folder. Written by scripts/assemble.py."""

from __future__ import annotations

CODE = {
'''


def tool(name: str, machine: str) -> str | None:
    """Return the path of a program of binutils for a machine."""
    here = platform.machine() == machine and shutil.which(name)
    return here or shutil.which(f"{machine.replace('_', '-')}-linux-gnu-{name}")


def assemble(source: Path, machine: str) -> bytes | None:
    """Return the code of a source; None where there is no assembler for its machine."""
    assembler, copier = tool("as", machine), tool("objcopy", machine)
    if assembler is None or copier is None:
        return None
    symbols = [word for name, value in SYMBOLS.items() for word in ("--defsym", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        compiled, code = Path(folder, "object"), Path(folder, "code")
        subprocess.run([assembler, "--fatal-warnings", *symbols, "-o", compiled, source], check=True)
        subprocess.run([copier, "-O", "binary", "-j", ".text", compiled, code], check=True)
        return code.read_bytes()


def module(code: dict[tuple[str, str], bytes]) -> str:
    """Return the text of the Python module."""
    text = HEAD
    for (program, machine), content in sorted(code.items()):
        text += f'    ("{program}", "{machine}"): bytes.fromhex(\n'
        # The formatter joins short lines.
        width = 48 if len(content) <= 48 else 32
        for start in range(0, len(content), width):
            text += f'        "{content[start : start + width].hex()}"\n'
        text += "    ),\n"
    return f'{text}}}\n"""By program and machine."""\n'


def main() -> int:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    options = parser.parse_args()
    code: dict[tuple[str, str], bytes] = {}
    differing = []
    for source in sorted(FOLDER.glob("*.S")):
        program, machine, _ = source.name.split(".")
        there = machine_code.CODE.get((program, machine))
        made = assemble(source, machine)
        state = "no assembler" if made is None else "same" if made == there else "differs"
        print(f"{source.name}: {state}")
        if state == "differs":
            differing.append(source.name)
        if (kept := there if made is None else made) is not None:
            code[program, machine] = kept
    if options.check:
        return 1 if differing or module(code) != MODULE.read_text() else 0
    MODULE.write_text(module(code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
