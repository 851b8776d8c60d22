"""The shell script that is the first process of a job's sandbox."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from unsandbox.sandbox.launcher.fd_numbers import CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.layout import DEFAULT_ENV, WORK
from unsandbox.sandbox.spec import SandboxSpec

RUN_SCRIPT = f". /proc/self/fd/{SCRIPT_FD}"
"""The shell command that executes the script."""
_CLOSED = f"{CONTROL_FD}>&- 4>&- {EXTRA_FD}>&-"

_CAUGHT = tuple(number for number in (*range(1, 32), *range(34, 65)) if number not in (9, 17, 18, 19))
"""Signals that can be caught, but for those about children and continuing."""

MARK_START, MARK_COMPILE_FAILED, MARK_COMPILED = b"start", b"compile", b"run"
"""The script's reports when the job begins, when its compile step fails, and when the compile step is over."""
MARK_RAN, MARK_END = b"ran", b"end"
"""The reports at the end. `ran`: the program has ended, but processes that it started still hold its output."""
LOOK_AGAIN = b"look\n"
"""The answer to `ran` that asks for another report. Any other answer kills the remaining processes."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOADER_PREFIXES = ("LD_", "GLIBC_", "GCONV_", "MALLOC_", "BASH_")
_SHELL_NAMES = frozenset(
    {"ENV", "IFS", "LOCPATH", "OLDPWD", "OPTIND", "PPID", "PS1", "PS2", "PS4", "PWD", "SHLVL", "_"}
)


def disturbs_shell(name: str) -> bool:
    """Return whether a variable must be set for the programs only, not for the job script.

    The script's shell and loader would act on some variables, and drop or overwrite others.
    """
    return name.startswith(_LOADER_PREFIXES) or name in _SHELL_NAMES or not _PLAIN_NAME.fullmatch(name)


def job_script(
    spec: SandboxSpec,
    *,
    data_bytes: int | None,
    prepare: Sequence[str] = (),
    artifacts: Sequence[str] = (f"read -r _ <&{CONTROL_FD}",),
    all_variables: bool = False,
) -> bytes:
    """Return the shell script that is the sandbox's first process.

    The script sets limits, reports the start, runs the steps, kills the processes that they left, and reports
    the exit status. While such processes hold the program's output, the server decides how long they may
    continue. If artifacts are wanted, the script then waits until they have been read, because they end with
    the sandbox.

    Args:
        spec: A validated specification.
        data_bytes: Limit of each process's data in bytes where no control group limits memory, otherwise None.
        prepare: Lines that put files in place before the clock starts.
        artifacts: Lines that send the artifacts, or wait until the server has read them.
        all_variables: Set every variable in the script; otherwise only those that would disturb its shell.
    """
    limits = spec.limits
    lines = [
        f"exec {SCRIPT_FD}<&-",
        f"ulimit -n {limits.open_files}",
        # The number of processes of this user in this sandbox: -p in dash, -u in bash.
        f"ulimit -p {limits.processes} 2>/dev/null || ulimit -u {limits.processes}",
    ]
    if data_bytes is not None:
        lines.append(f"ulimit -d {max(1, data_bytes // 1024)}")
    late = [shlex.quote(f"{name}={value}") for name, value in spec.env.items() if disturbs_shell(name)]
    prefix = f"env -- {' '.join(late)} " if late else ""
    if all_variables:
        lines += [
            f"export {name}={shlex.quote(value)}"
            for name, value in spec.env.items()
            if not disturbs_shell(name)
        ]
    lines += prepare
    # The shell's messages ("Segmentation fault") are not the program's output. The shell writes them to the
    # stderr of a simple command; hence the subshells, which need no further process.
    lines += [
        "exec 4>&2 2>/dev/null",
        # A program may signal its whole process group. Linux protects the first process, gVisor does not.
        # Signals that the shell catches have their default action in programs.
        f"trap : {' '.join(map(str, _CAUGHT))}",
        _report(MARK_START),
    ]
    if spec.compile is not None:
        own = "" if spec.env == spec.compile_env else _only(spec.compile_env)
        lines += [
            f"(exec {own or prefix}{shlex.join(spec.compile)}) </dev/null >&4 2>&4 {_CLOSED}",
            f"code=$?; [ $code = 0 ] || {{ {_report(MARK_COMPILE_FAILED)}; exit $code; }}",
            _report(MARK_COMPILED),
            *([f"read -r _ <&{CONTROL_FD}"] if spec.compile_apart else ()),
        ]
    bound = ""
    if limits.cpu_s is not None:
        # Of each process by itself, should nothing count them together.
        bound = f"ulimit -S -t {math.ceil(limits.cpu_s)}; ulimit -H -t {math.ceil(limits.cpu_s) + 1}; "
    lines += [
        f"({bound}exec {prefix}{shlex.join(spec.run)}) 2>&4 {_CLOSED}",
        "code=$?",
        *_LET_OTHERS_FINISH,
        "kill -9 -1",
        _report(MARK_END),
    ]
    if spec.collect_artifacts or spec.artifact_paths:
        lines += artifacts
    lines.append("exit $code")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _only(env: Mapping[str, str]) -> str:
    """Return the prefix of a command that gets only the default variables and these."""
    words = (shlex.quote(f"{name}={value}") for name, value in {**DEFAULT_ENV, "PWD": WORK, **env}.items())
    # By its full path, because the program may have set PATH.
    return f"/usr/bin/env -i -- {' '.join(words)} "


def _report(mark: bytes) -> str:
    return f'echo "{mark.decode()} $code" >&{CONTROL_FD}'


_LET_OTHERS_FINISH = (
    # The shell itself has the output open too and is skipped. `-ef` compares the pipes.
    "output_is_held() {",
    "for file in /proc/[0-9]*/fd/*; do",
    'case $file in "/proc/$$/"*) continue ;; esac',
    '[ "$file" -ef /proc/self/fd/1 ] || [ "$file" -ef /proc/self/fd/4 ] && return 0',
    "done",
    "return 1",
    "}",
    "while kill -0 -1 && output_is_held; do",
    f"{_report(MARK_RAN)}; read -r answer <&{CONTROL_FD} || break",
    f'[ "$answer" = {LOOK_AGAIN.decode().strip()} ] || break',
    "done",
)
