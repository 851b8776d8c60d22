"""Every message between the server, its launcher, and the processes that the launcher forks.

A message is JSON in one packet of a SOCK_SEQPACKET socket: an object with its `kind` and the fields of the
class of that kind. Descriptors are attached to the packet. Both sides decode strictly: a packet with an
unknown or missing field, or a field of another type, is not a message.

Standard library only: the launcher loads this.
"""

from __future__ import annotations

import base64
import json
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from unsandbox.sandbox.launcher.cgroups import Bounds

MAX_MESSAGE = 1 << 16
"""Bytes of one packet."""
FDS_PER_MESSAGE = 253
"""Descriptors that the kernel takes in one packet (SCM_MAX_FD); see `MoreDescriptors`."""


class MessageError(ValueError):
    """A packet is not a message, or a message does not fit into a packet."""


# A class without fields of its own shares the methods of its base: to make a dataclass takes half a millisecond
# of each start of the launcher.


@dataclass(frozen=True, slots=True)
class _Fact:
    """A message without fields."""


@dataclass(frozen=True, slots=True)
class _ForJob:
    """A message with nothing but the number of a sandbox."""

    job: int


# From the server to the launcher


@dataclass(frozen=True, slots=True)
class Network:
    """The outbound network of a sandbox.

    Attributes:
        program: Path of slirp4netns.
        ipv6: Whether it carries IPv6.
    """

    program: str
    ipv6: bool


@dataclass(frozen=True, slots=True)
class WorkDisk:
    """The work folder of a persistent sandbox, which the launcher mounts for it.

    Attributes:
        target: Folder of the host to mount it on.
        image_fd: Number of the descriptor of an ext4 image among those of the sandbox; None for a folder.
        source: The folder to mount; None for an image, and where `target` itself is the work folder.
    """

    target: str
    image_fd: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a sandbox for one job. Attached are its descriptors.

    Attributes:
        job: Number of the sandbox, given by `LauncherControl`.
        program: Path of the program that makes the sandbox.
        argv: Its command line.
        fds: The number that each attached descriptor has in it.
        bounds: Limits of its control group.
        uid: User of the host that it runs as; None for the server's.
        single_process: Whether the program is the whole sandbox (`runsc`): it reports no child, and its death
            ends everything inside. Otherwise (`bwrap`) it reports the first process on `INFO_FD`.
        network: Its outbound network; None for none.
        cpus: The processors that it runs on; none for all.
    """

    job: int = 0
    program: str
    argv: tuple[str, ...]
    fds: tuple[int, ...]
    bounds: Bounds
    uid: int | None = None
    single_process: bool = False
    network: Network | None = None
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartZygote(Start):
    """Start a zygote: a sandbox template that warm sandboxes are forked from. Its group limits nothing."""

    nice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPersistent(Start):
    """Start a persistent sandbox: it can be entered, frozen and limited until it is killed."""

    disk: WorkDisk | None = None


class MoreDescriptors(_ForJob):
    """Carries descriptors of a request that has more of them than fit into its packet; the request follows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareWarm:
    """Have a zygote fork a warm sandbox. Attached are its control socket, stdout and stderr.

    Attributes:
        job: Number of the sandbox, given by `LauncherControl`.
        zygote: Number of the zygote.
        bounds: Limits of its control group.
        settings: Words for the zygote: the kind of sandbox, then those of `lockdown.Setup.start`.
    """

    job: int = 0
    zygote: int
    bounds: Bounds
    settings: tuple[int, ...]


class Watch(_ForJob):
    """A warm sandbox got its job: from now on bound its memory, where no control group does."""

    __slots__ = ()


class Kill(_ForJob):
    """Kill a sandbox, frozen or not; its `Ended` follows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that concerns a persistent sandbox and gets one answer.

    Attributes:
        job: Number of the sandbox.
        ask: Number of the request, given by `LauncherControl`.
    """

    job: int
    ask: int = 0


class Spawn(Ask):
    """Start a program of the tenant, answered at its end with the exit code.

    Attached are a file with `ProgramDetails`, a socket for reports of its start, then stdin, stdout and stderr
    unless it gets a terminal.
    """

    __slots__ = ()


class SpawnHelper(Ask):
    """Start a helper program that tenants cannot see and that runs while the sandbox is frozen."""

    __slots__ = ()


class Connect(Ask):
    """Start a helper that connects to ports inside; attached is the socket that it takes its orders from."""

    __slots__ = ()


class OpenLowPorts(Ask):
    """Let programs listen on ports below 1024; attached is a socket for reports."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal(Ask):
    """Send a signal to a program.

    Attributes:
        pid: Number of the program on the host.
        signal: Number of the signal.
        session: Whether its whole session gets the signal, else its process group.
    """

    pid: int
    signal: int
    session: bool


class Freeze(Ask):
    """Suspend every process; answered when all are suspended."""

    __slots__ = ()


class Unfreeze(Ask):
    """Resume every process."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLimits(Ask):
    """Change limits of the sandbox; None leaves one as it is."""

    vcpu: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramDetails:
    """The details of a program; sent in a file, because they may be longer than a packet.

    Attributes:
        argv: Its command line.
        env: Its variables.
        cwd: Its folder.
        terminal: Columns and rows of the terminal that it gets; None for pipes.
        helper: None for a program of the tenant; for one of ours the capabilities that it keeps, as a mask.
        filter: The system call filter, an array of `struct sock_filter`.
        limits: Resource limits.
        forker: Machine code that forks in shared memory; see `syscalls.fork_sharing`. Empty for fork(2).
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    terminal: tuple[int, int] | None
    helper: int | None
    filter: bytes
    limits: ProcessLimits
    forker: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """Resource limits of a program and what it starts; None leaves one as it is.

    `cpus` are the processors that it runs on; none for all.
    """

    open_files: int | None = None
    processes: int | None = None
    file_bytes: int | None = None
    data_bytes: int | None = None
    cpus: tuple[int, ...] = ()


# From the launcher to the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The launcher serves.

    Attributes:
        cgroup_version: Version of the control groups that it can use; 0 for none.
        cgroup_parents: For each controller the folder with the groups of its sandboxes.
        freezer: How persistent sandboxes are frozen: `v2`, `v1`, or by `stop` signals.
        cgroup_refusal: The reason for version 0, as in `delegation.Refusal`.
        cgroup_detail: The group or the error message that belongs to it.
    """

    cgroup_version: int = 0
    cgroup_parents: dict[str, str] = field(default_factory=dict)
    freezer: str = "stop"
    cgroup_refusal: str = ""
    cgroup_detail: str = ""


@dataclass(frozen=True, slots=True)
class First:
    """The first process of a sandbox exists, with number `pid` on the host; attached is a descriptor of it."""

    job: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """No process of a sandbox is left.

    Attributes:
        job: Number of the sandbox.
        exit_code: The monitor's: negative for a signal, None when it could not be started.
        cpu_s: Seconds of CPU time that the sandbox used; None where nothing counts them.
        peak_memory_bytes: The most memory that it held; None where nothing counts it.
        out_of_memory: Whether something in it was killed for want of memory.
        error: Why it could not be made, or was killed.
    """

    job: int
    exit_code: int | None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    out_of_memory: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer to an `Ask`.

    Attributes:
        ask: Number of the request.
        exit_code: Of a program that has ended, as a shell counts it.
        error: Why the request failed; None when it did not.
        cpu_s: Seconds of CPU time that the program and the children that it waited for used.
        peak_memory_bytes: The most memory that one of these held.
    """

    ask: int
    exit_code: int | None = None
    error: str | None = None
    cpu_s: float | None = None
    peak_memory_bytes: int | None = None


# From a process that the launcher forked to the server, on a separate socket


@dataclass(frozen=True, slots=True)
class Entered:
    """A process has entered the sandbox; `pid` is the number on the host of the program that it becomes."""

    pid: int


class TerminalOpened(_Fact):
    """A program has a terminal; attached is the master of it."""

    __slots__ = ()


class Connected(_Fact):
    """A port inside was reached; attached is the socket."""

    __slots__ = ()


class LowPortsOpened(_Fact):
    """Programs can listen on ports below 1024."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """What was asked for did not succeed; `error` says why, `errno` and `path` as the kernel put it."""

    error: str
    errno: int = 0
    path: str = ""


Request = Start | PrepareWarm | MoreDescriptors | Watch | Kill | Ask
Report = Entered | TerminalOpened | Connected | LowPortsOpened | Failed
Message = Request | Ready | First | Ended | Answered | Report | ProgramDetails

KINDS: dict[str, type[Message]] = {
    "start": Start,
    "start_zygote": StartZygote,
    "open_persistent": OpenPersistent,
    "more_descriptors": MoreDescriptors,
    "prepare_warm": PrepareWarm,
    "watch": Watch,
    "kill": Kill,
    "spawn": Spawn,
    "spawn_helper": SpawnHelper,
    "connect": Connect,
    "open_low_ports": OpenLowPorts,
    "signal": Signal,
    "freeze": Freeze,
    "unfreeze": Unfreeze,
    "change_limits": ChangeLimits,
    "program_details": ProgramDetails,
    "ready": Ready,
    "first": First,
    "ended": Ended,
    "answered": Answered,
    "entered": Entered,
    "terminal_opened": TerminalOpened,
    "connected": Connected,
    "low_ports_opened": LowPortsOpened,
    "failed": Failed,
}
"""The class of each kind of message."""


def encode(message: Message, max_bytes: int | None = MAX_MESSAGE) -> bytes:
    """Return a message as JSON.

    Args:
        message: An instance of one of `KINDS`.
        max_bytes: The most that it may be long; None for what goes into a file.

    Raises:
        MessageError: It is longer than that, or holds a number that JSON cannot.
    """
    content = {"kind": _NAMES[type(message)], **_plain(message)}
    try:
        data = json.dumps(content, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise MessageError(f"{content['kind']}: {error}") from error
    if max_bytes is not None and len(data) > max_bytes:
        raise MessageError(f"{content['kind']}: a message of {len(data)} bytes; the most is {max_bytes}")
    return data


def decode(data: bytes) -> Message:
    """Return the message that `encode` made these bytes of.

    Raises:
        MessageError: They are not a message; the text names kind and field, and holds nothing of the content.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError("not JSON") from error
    if not isinstance(content, dict):
        raise MessageError("not a JSON object")
    kind = content.pop("kind", None)
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise MessageError("a message of an unknown kind")
    try:
        message: Message = _build(known, content)
    except ValueError as error:
        raise MessageError(f"{kind}: {error}") from error
    return message


def decode_details(data: bytes) -> ProgramDetails:
    """Return the details of a program that a file holds.

    Raises:
        MessageError: It holds something else.
    """
    message = decode(data)
    if not isinstance(message, ProgramDetails):
        raise MessageError("not the details of a program")
    return message


# A field of each type, from what JSON makes of it


def _build(known: type[Any], content: object) -> Any:
    readers = _READERS[known]
    if type(content) is not dict:
        raise ValueError("not an object")
    if not content.keys() <= readers.keys():
        raise ValueError("an unknown field")
    values = {}
    for name, value in content.items():
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if missing := _REQUIRED[known] - values.keys():
        raise ValueError(f"{min(missing)} is missing")
    return known(**values)


def _reader(hint: Any) -> Callable[[Any], Any]:
    """Return what checks a value and turns it into a field of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return lambda value: _build(hint, value)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        (inner,) = (_reader(argument) for argument in arguments if argument is not types.NoneType)
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is dict:
        read_key, read_value = map(_reader, arguments)
        items = _exactly(dict)
        return lambda value: {read_key(name): read_value(item) for name, item in items(value).items()}
    if hint is float:
        return _read_float
    return _read_bytes if hint is bytes else _exactly(hint)


def _exactly(kind: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        # Not isinstance: a truth value is no number.
        if type(value) is not kind:
            raise ValueError(f"not of type {kind.__name__}")
        return value

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    read, length = _reader(arguments[0]), None if arguments[-1] is Ellipsis else len(arguments)
    items = _exactly(list)

    def read_all(value: Any) -> Any:
        if length is not None and len(items(value)) != length:
            raise ValueError(f"not {length} items")
        return tuple(map(read, items(value)))

    return read_all


def _read_float(value: Any) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise ValueError("not a finite number")


def _read_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_exactly(str)(value), validate=True)
    except ValueError as error:
        raise ValueError("not base64") from error


def _plain(value: Any) -> Any:
    """Return a part of a message as JSON has it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return {name: getattr(value, name) for name in _READERS[type(value)]}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


_NAMES = {known: kind for kind, known in KINDS.items()}
_READERS: dict[type[Any], dict[str, Callable[[Any], Any]]] = {
    known: {name: _reader(hint) for name, hint in get_type_hints(known).items()}
    for known in (*KINDS.values(), Bounds, Network, WorkDisk, ProcessLimits)
}
_REQUIRED = {
    known: frozenset(
        item.name for item in fields(known) if item.default is MISSING and item.default_factory is MISSING
    )
    for known in _READERS
}
