"""Shells and REPLs of persistent sandboxes: a table, and drivers that run commands in one shell."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.host.descriptors import writable
from unsandbox.sandbox.languages.marked_output import END, MarkedStream
from unsandbox.sandbox.languages.table import load_languages
from unsandbox.sandbox.persistent_spec import CommandOutcome, PersistentSandbox, RunningProcess
from unsandbox.sandbox.system import HOST, System

_TABLE = Path(__file__).with_name("shells.toml")
_EXIT_TIMEOUT = 124
_LINGER_S = 2.0
_ON_ITS_WAY_S = 0.2
# Moves the channel away from descriptor 0, which is empty for commands.
_CHANNEL = 'exec "$@" 3<&0 </dev/null'


class UnknownShellError(LookupError):
    """The shell is unknown or not installed."""


@dataclass(frozen=True, slots=True)
class Shell:
    """One entry of the table.

    Attributes:
        name: Its first name.
        program: The program that must be installed.
        terminal_argv: Command line on a terminal.
        driver: How commands are wrapped, or `none`; see the table.
        driver_argv: Command line of the driver.
        init: The first commands of a new driver.
    """

    name: str
    program: str
    terminal_argv: tuple[str, ...]
    driver: str
    driver_argv: tuple[str, ...]
    init: str = ""

    async def open_driver(self, sandbox: PersistentSandbox, cwd: str = "/work") -> ShellDriver:
        """Start a driver, which runs single commands in one shell.

        Raises:
            ValueError: This shell has only a terminal.
            SandboxError: The driver cannot be started.
        """
        if self.driver == "none":
            raise ValueError(f"{self.name} takes no commands; open its terminal instead")
        argv = self.driver_argv
        if self.driver == "other":
            argv = ("/bin/sh", "-c", _CHANNEL, "sh", *argv)
        driver = ShellDriver(await sandbox.spawn(argv, cwd=cwd), _FRAMES[self.driver])
        sandbox.lasting = driver.process
        if self.init:
            await driver.run(self.init, None)
        return driver

    def take_over(self, sandbox: PersistentSandbox) -> ShellDriver | None:
        """Return the driver of the shell in a hot image, with its state; None if the image has none."""
        if sandbox.lasting is None or self.driver == "none":
            return None
        return ShellDriver(sandbox.lasting, _FRAMES[self.driver], stale=True)


@functools.cache
def _shells() -> dict[str, Shell]:
    with _TABLE.open("rb") as file:
        entries = tomllib.load(file)
    found = {}
    for name, entry in entries.items():
        terminal = tuple(entry.get("terminal", [entry["program"]]))
        driver = tuple(entry.get("driver_command", terminal[:2] if name == "ash" else [entry["program"]]))
        script = entry.get("script")
        shell = Shell(
            name,
            entry["program"],
            terminal,
            entry["driver"],
            driver + ((script,) if script else ()),
            entry.get("init", ""),
        )
        found.update(dict.fromkeys((name, *entry.get("aliases", ())), shell))
    for language in load_languages().values():
        if language.repl is not None:
            shell = Shell(language.name, language.repl[0], tuple(language.repl), "none", ())
            for name in (language.name, *language.aliases):
                found.setdefault(name, shell)
    return found


def find_shell(name: str, system: System = HOST) -> Shell:
    """Return a shell by one of its names.

    Args:
        name: The name.
        system: The system in which it must be installed.

    Raises:
        UnknownShellError: The shell is unknown or not installed; the message lists the available ones.

    Example:
        >>> find_shell("sh").terminal_argv
        ('sh',)
    """
    shell = _shells().get(name.strip().lower())
    if shell is not None and system.has_program(shell.program):
        return shell
    what = "is not installed on this server" if shell else "is not a shell or REPL of this server"
    raise UnknownShellError(f"{name[:40]!r} {what}; available: {', '.join(available_shells(system))}")


def available_shells(system: System = HOST) -> list[str]:
    """Return the first names of the shells that are installed, sorted."""
    return sorted({shell.name for shell in _shells().values() if system.has_program(shell.program)})


class ShellDriver:
    """A shell that runs one command after another. The caller ensures that only one command runs at a time.

    Args:
        process: The shell, with pipes; this object owns it.
        frame: Wraps a command so that the marker and the exit code follow its output.
        stale: Whether an abandoned command may still run, whose marker must not count as output.
    """

    def __init__(
        self, process: RunningProcess, frame: Callable[[bytes, bytes], bytes], *, stale: bool = False
    ) -> None:
        if process.stdin_fd is None or process.stdout_fd is None or process.stderr_fd is None:
            raise ValueError("a driver needs a program with pipes")
        self.process = process
        self._frame = frame
        self._stale = stale
        self._stdin = process.stdin_fd
        self._streams = (MarkedStream(process.stdout_fd), MarkedStream(process.stderr_fd))
        self._loop = asyncio.get_running_loop()
        self.alive = True

    async def run(self, command: str, timeout_s: float | None) -> CommandOutcome:
        """Run a command and return its output.

        When its time is up, or it ends the shell, the shell is gone: `alive` is False, and the next command
        needs a new driver.

        Raises:
            SandboxError: The shell had ended before the command could be sent.
        """
        marker = END + secrets.token_hex(12).encode()
        started = time.monotonic()
        both: asyncio.Future[None] = self._loop.create_future()
        going_on = set(self._streams)

        def ended(stream: MarkedStream) -> None:
            going_on.discard(stream)
            if not going_on and not both.done():
                both.set_result(None)

        timed_out = False
        try:
            for stream in self._streams:
                stream.expect(marker, ended)
            async with asyncio.timeout(timeout_s):
                await self._send(self._frame(marker, command.encode("utf-8", "surrogateescape")))
                await self._answered(both)
        except TimeoutError:
            timed_out = True
            self.close()
        except OSError as error:
            # The pipes are closed, because the sandbox has just ended.
            self.close()
            raise SandboxError("the session's shell has ended") from error
        except BaseException:
            self.close()
            raise
        code = self._streams[0].output.code
        if code is None and not timed_out:
            self.alive = False
            try:
                async with asyncio.timeout(_LINGER_S):
                    code = await self.process.wait()
            except TimeoutError:
                # The shell closed its output and continues, but is no longer usable.
                code = 0
            finally:
                self.close()
        stdout, stderr = (stream.output.take(stale=self._stale) for stream in self._streams)
        self._stale = False
        wall_s = time.monotonic() - started
        return CommandOutcome(_EXIT_TIMEOUT if code is None else code, stdout, stderr, wall_s, timed_out)

    async def _answered(self, both: asyncio.Future[None]) -> None:
        """Wait for the markers or the end of the shell, whose background processes may hold the output open."""
        exited = asyncio.ensure_future(self.process.wait())
        try:
            either: set[asyncio.Future[Any]] = {both, exited}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not both.done():
                # The shell's last output is still on its way.
                await asyncio.wait({both}, timeout=_ON_ITS_WAY_S)
        finally:
            exited.cancel()
            await asyncio.gather(exited, return_exceptions=True)

    def close(self) -> None:
        """Kill the shell and its process group."""
        self.alive = False
        for stream in self._streams:
            stream.stop()
        self.process.kill()
        self.process.close()

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await writable(self._stdin)
            except OSError as error:
                raise SandboxError("the session's shell has ended") from error


def _frame_posix(marker: bytes, command: bytes, evaluate: bytes = b"\\eval") -> bytes:
    # The markers go to the original descriptors 1 and 2, because a command may have redirected the shell's.
    say = b" '\\036" + marker.lstrip(END) + b" %d\\036' " + b'"$__s"'
    told = b";".join(
        b"\\command printf%b>&%d||\\command printf%b>&%d" % (say, at, say, to) for at, to in ((8, 1), (9, 2))
    )
    return b"{ " + evaluate + b" " + _quoted(command) + b"\n} </dev/null\n" + _trailer(told)


def _frame_bash(marker: bytes, command: bytes) -> bytes:
    # Functions of these names would swallow the marker. Only in POSIX mode does `unset` precede them.
    own = (
        b"[[ -o posix ]]&&__p=1||__p=;POSIXLY_CORRECT=1;\\unset -f builtin eval;"
        b"[[ $__p ]]||\\unset POSIXLY_CORRECT;"
    )
    # Output of `> >(filter)` belongs to this command. A filter of the whole shell stays, and is not waited for.
    waits = (
        b'if [[ ${!:-} != "${__b-}" ]];then __b=${!:-};'
        b'[[ " "$(\\builtin jobs -p)" " == *[[:space:]]"$__b"[[:space:]]* ]]||'
        b'for __i in {1..60};do \\builtin kill -0 "$__b"||break;/bin/sleep 0.02;done;fi;'
    )
    say = b" '\\036" + marker.lstrip(END) + b" %d\\036' " + b'"$__s"'
    told = b";".join(
        b"\\builtin printf%b>&%d||/usr/bin/printf%b>&%d" % (say, at, say, to)
        for at, to in ((250, 250), (251, 251))
    )
    return b"{ \\eval " + _quoted(command) + b"\n} </dev/null\n" + _trailer(told, own + waits)


def _quoted(command: bytes) -> bytes:
    return b"'" + command.replace(b"'", b"'\\''") + b"'"


def _trailer(told: bytes, before: bytes = b"") -> bytes:
    # Short, as shells read it byte by byte. Its last command gives the next one the `$?` of this one.
    return b'__s=$?;__a(){ return "$__s";};{ ' + before + told + b";} 2>/dev/null;__a\n"


def _frame_posix_builtin(marker: bytes, command: bytes) -> bytes:
    # In these shells a syntax error in a special builtin ends the shell, and with it the session's state.
    return _frame_posix(marker, command, b"\\command eval")


def _frame_fish(marker: bytes, command: bytes) -> bytes:
    return marker + b" " + quote_from_bytes(command, safe="").encode() + b"\n"


def _frame_other(marker: bytes, command: bytes) -> bytes:
    return marker + b" " + str(len(command)).encode() + b"\n" + command


_FRAMES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "bash": _frame_bash,
    "posix": _frame_posix,
    "posix_builtin": _frame_posix_builtin,
    "fish": _frame_fish,
    "other": _frame_other,
}
