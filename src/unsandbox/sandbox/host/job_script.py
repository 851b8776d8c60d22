"""The shell script that is the first process of a job's sandbox."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from unsandbox.sandbox.launcher.fd_numbers import CONTROL_FD, EXTRA_FD, SCRIPT_FD
from unsandbox.sandbox.layout import DEFAULT_ENV, WORK
from unsandbox.sandbox.spec import SandboxSpec

RUN_SCRIPT = f". /proc/self/fd/{SCRIPT_FD}"
"""The command of the shell that carries the script out."""
_CLOSED = f"{CONTROL_FD}>&- 4>&- {EXTRA_FD}>&-"

MARK_START, MARK_COMPILE_FAILED, MARK_COMPILED = b"start", b"compile", b"run"
"""What a sandbox reports when a job begins, when its compile step fails, and when that is over."""
MARK_RAN, MARK_END = b"ran", b"end"
"""What it reports at the end; `ran`: the program has ended, and processes that it left hold its output."""
LOOK_AGAIN = b"look\n"
"""The answer to `ran`: say `ran` or `end` again. Any other answer ends what is left."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOADER_PREFIXES = ("LD_", "GLIBC_", "GCONV_", "MALLOC_", "BASH_")
_SHELL_NAMES = frozenset(
    {"ENV", "IFS", "LOCPATH", "OLDPWD", "OPTIND", "PPID", "PS1", "PS2", "PS4", "PWD", "SHLVL", "_"}
)


def disturbs_shell(name: str) -> bool:
    """Whether a variable must be set for the programs alone, after the job script.

    The script's own shell and loader would obey some, and drop or overwrite others.
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

    It limits itself, says that it starts, runs the steps, kills whatever they left running, and reports the
    exit status. As long as processes that the program left hold its output, the server says how long they may
    go on. When artifacts are wanted the script then waits: they exist only while the sandbox does.

    Args:
        spec: A validated specification.
        data_bytes: Bound of each process's data in bytes where nothing else limits memory, else None.
        prepare: Lines that put files in place, before the clock starts.
        artifacts: Lines that hand over what the program left, or wait until somebody has taken it.
        all_variables: Set every variable in the script; otherwise only those that would disturb its shell.
    """
    limits = spec.limits
    lines = [
        f"exec {SCRIPT_FD}<&-",
        f"ulimit -n {limits.open_files}",
        # Processes of this user in this sandbox: dash says -p, bash -u.
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
    # The shell's own remarks ("Segmentation fault") are not the program's output. It makes them in the place to
    # which a simple command is redirected; hence the subshells, which cost no further process.
    lines += ["exec 4>&2 2>/dev/null", _report(MARK_START)]
    if spec.compile is not None:
        own = "" if spec.env == spec.compile_env else _only(spec.compile_env)
        lines += [
            f"(exec {own or prefix}{shlex.join(spec.compile)}) </dev/null >&4 2>&4 {_CLOSED}",
            f"code=$?; [ $code = 0 ] || {{ {_report(MARK_COMPILE_FAILED)}; exit $code; }}",
            _report(MARK_COMPILED),
        ]
    lines += [
        f"(exec {prefix}{shlex.join(spec.run)}) 2>&4 {_CLOSED}",
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
    """Return what begins a command that has the defaults and these variables alone."""
    words = (shlex.quote(f"{name}={value}") for name, value in {**DEFAULT_ENV, "PWD": WORK, **env}.items())
    # By its path: the program's variables may say where else to look.
    return f"/usr/bin/env -i -- {' '.join(words)} "


def _report(mark: bytes) -> str:
    return f'echo "{mark.decode()} $code" >&{CONTROL_FD}'


_LET_OTHERS_FINISH = (
    # The shell itself has the output open, too. `-ef`: the same pipe.
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
