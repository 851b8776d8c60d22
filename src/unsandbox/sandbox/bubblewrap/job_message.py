"""Messages to warm sandboxes: the encoding of a job for the interpreter that waits in one."""

from __future__ import annotations

import marshal
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from unsandbox.sandbox.layout import ARTIFACT_FOLDER, DEFAULT_ENV, WORK
from unsandbox.sandbox.spec import SandboxSpec
from unsandbox.sandbox.zygote.main import MAIN, PROGRAMS

PYTHON = ("python3", MAIN)
"""The command of programs that the waiting interpreter runs itself; it executes any other command."""
_READS_AT_START = re.compile(r"PYTHON|LD_|LC_|MALLOC_|GLIBC_|GCONV_|(LANG|LANGUAGE|HOME|PATH|TZ)\Z")
"""Variables that an interpreter, its loader or its C library reads only at its start."""
_INLINE_BYTES = 1 << 16


def runs_in_process(spec: SandboxSpec, template_env: Mapping[str, str]) -> bool:
    """Return whether the waiting interpreter has the state that a new one would have for this program."""
    if tuple(spec.run[:2]) != PYTHON or spec.compile is not None:
        return False
    changed = {
        name for name in spec.env.keys() | template_env.keys() if spec.env.get(name) != template_env.get(name)
    }
    return not any(_READS_AT_START.match(name) for name in changed)


def commands_by_kind(commands: Iterable[Sequence[str]]) -> dict[int, list[str]]:
    """Return the commands of interpreters that can wait for their program, by kind of sandbox."""
    kinds = {program: kind for kind, program in PROGRAMS.items()}
    return {kinds[command[-1]]: list(command) for command in commands if command[-1] in kinds}


def waiting_kind(spec: SandboxSpec, commands: Mapping[int, list[str]]) -> int | None:
    """Return the kind of sandbox whose waiting interpreter can run a job; None if none can.

    The interpreter was started without the variables and input of a job.

    Args:
        spec: The job.
        commands: The commands of the waiting interpreters.
    """
    kind = next((kind for kind, command in commands.items() if list(spec.run) == command), None)
    if kind is None or spec.compile is not None or spec.env or spec.stdin:
        return None
    there = any(file.path == spec.run[-1] and file.mode == 0o644 for file in spec.files)
    return kind if there else None


def encode_job(
    spec: SandboxSpec,
    *,
    in_process: bool,
    report: bool,
    said: bytes,
    present: Collection[str],
    known: Mapping[str, str],
    quick_end: bool,
) -> tuple[bytes, bytes | None]:
    """Return the message for a warm sandbox, and the content that is too long for it and goes into a file.

    Args:
        spec: The job.
        in_process: Whether the waiting interpreter runs it.
        report: Whether the sandbox sends the compiled program before it continues.
        said: The stderr of the compile step in an earlier run.
        present: Folders that exist already.
        known: Variables of the waiting interpreter.
        quick_end: See `PoolConfig`.
    """
    folders = [*spec.folders, *([ARTIFACT_FOLDER] if spec.collect_artifacts else [])]
    if in_process:
        env = {name: value for name, value in spec.env.items() if known.get(name) != value}
    else:
        env = {**DEFAULT_ENV, "PWD": WORK, **spec.env}
    content = {
        "attached": False,
        "run": None if in_process else list(spec.run),
        "args": list(spec.run[2:]),
        "report": spec.compiled if report else None,
        "said": said,
        "apart": spec.compile_apart,
        "compile": None if spec.compile is None else list(spec.compile),
        "env": env,
        "compile_env": {**DEFAULT_ENV, "PWD": WORK, **spec.compile_env},
        "folders": [folder for folder in folders if folder not in present],
        # Artifacts are collected when only the first process is left.
        "early": quick_end and not (spec.collect_artifacts or spec.artifact_paths),
        "files": [(file.path, file.mode, file.data) for file in spec.files],
    }
    # The oldest version with all of these types, because the other side may be any Python 3.
    size = sum(len(file.data) for file in spec.files)
    if size < _INLINE_BYTES:
        message = marshal.dumps(content, 2)
        if len(message) < _INLINE_BYTES:
            return message, None
    return marshal.dumps({"attached": True}, 2), marshal.dumps(content, 2)
