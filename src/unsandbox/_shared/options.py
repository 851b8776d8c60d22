"""Encodes and validates the arguments of an execution."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from unsandbox._shared.files import InputFiles, encode_files, utf8
from unsandbox._shared.request import PreparedRequest
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol import codec
from unsandbox.protocol.bounds import BoundExceededError, check_bounds, check_exec_size
from unsandbox.protocol.models import ExecuteRequest

_MAX_TTL_S = 900
_MAX_VCPU = 8
_MAX_MEMORY_MB = 1 << 20
_NETWORK_MODES = ("zerotrust", "semitrusted")
_DAY_S = 86400.0
_MARGIN_S = 15.0


class ExecuteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of an execution, as a caller gave them; see `AsyncClient.execute` for their meaning."""

    language: str
    code: str
    env: Mapping[str, str] | None = None
    input_files: InputFiles | None = None
    network_mode: str | None = None
    vcpu: int | None = None
    ttl: float | None = None
    return_artifacts: bool = False
    stdin: Any = None
    args: Iterable[str] | None = None
    isolation: str | None = None
    compiler_args: Iterable[str] | None = None
    memory_mb: int | None = None
    compile_timeout: float | None = None
    cpu_time: float | None = None
    compile_output: bool = False
    version: str | None = None
    env_name: str | None = None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some of them changed."""
        return msgspec.structs.replace(self, **changes)


def encode_execution(options: ExecuteOptions, timeout: float | None = None) -> PreparedRequest:
    """Return the request of an execution. Omitted options are left out, so the server's defaults apply.

    Small files in `input_files` are read here, large ones when they are sent.

    Args:
        options: The arguments; `stdin` in one piece.
        timeout: The caller's deadline, in seconds.

    Raises:
        InvalidRequestError: An argument cannot be sent; the message names it and never shows its value.
    """
    language, code, stdin = options.language, options.code, options.stdin
    body: dict[str, Any] = {"language": _text("language", language), "code": _text("code", code)}
    needs: list[str] = []
    if not language.strip():
        raise InvalidRequestError("language is empty; pass a name such as 'python'")
    if options.env:
        body["env"] = _environment(options.env)
    if options.input_files:
        body["input_files"] = encode_files(options.input_files)
    body |= _bounds(options.network_mode, options.vcpu, options.ttl, timeout)
    if options.return_artifacts:
        body["return_artifacts"] = True
    if stdin is not None:
        needs.append("stdin")
        if isinstance(stdin, bytes | bytearray | memoryview):
            body["stdin_base64"] = base64.b64encode(stdin).decode("ascii")
        else:
            body["stdin"] = _text("stdin", stdin)
    if options.args is not None:
        body["args"] = _words(options.args)
        if body["args"]:
            needs.append("args")
    further = _further(options)
    body |= further
    needs += further
    _check_bounds(body)
    return PreparedRequest(codec.encode_request(body), needs=needs)


def _further(options: ExecuteOptions) -> dict[str, Any]:
    """Return the members that not every server knows."""
    further: dict[str, Any] = {}
    if options.isolation not in (None, "auto"):
        further["isolation"] = options.isolation
    if options.compiler_args is not None and (words := _words(options.compiler_args, "compiler_args")):
        further["compiler_args"] = words
    if options.memory_mb is not None:
        further["memory_mb"] = _whole("memory_mb", options.memory_mb, _MAX_MEMORY_MB)
    for name in ("compile_timeout", "cpu_time"):
        if (limit := getattr(options, name)) is not None:
            further[name] = _seconds(name, limit, _MAX_TTL_S)
    if options.compile_output:
        further["compile_output"] = True
    if options.version is not None:
        further["version"] = _text("version", options.version)
    if options.env_name is not None:
        further["env_name"] = _text("env_name", options.env_name)
    return further


def encode_script(
    source: str | bytes,
    *,
    env: Mapping[str, str] | None = None,
    network_mode: str | None = None,
    ttl: float | None = None,
    timeout: float | None = None,
) -> tuple[PreparedRequest, dict[str, object]]:
    """Return body and query of a script that names its language in its `#!` line.

    Raises:
        InvalidRequestError: An argument cannot be sent.
    """
    body = source if isinstance(source, bytes) else utf8("source", _text("source", source))
    options: dict[str, object] = _bounds(network_mode, None, ttl, timeout)
    if env:
        variables = _environment(env)
        _check_bounds({"env": variables})
        options["env"] = codec.encode(variables).decode()
    return PreparedRequest(body, "text/plain"), options


def _bounds(
    network_mode: str | None, vcpu: int | None, ttl: float | None, timeout: float | None
) -> dict[str, object]:
    bounds: dict[str, object] = {}
    if network_mode is not None:
        if network_mode not in _NETWORK_MODES:
            raise InvalidRequestError(f"network_mode must be one of {', '.join(_NETWORK_MODES)}")
        bounds["network_mode"] = network_mode
    if vcpu is not None:
        bounds["vcpu"] = _whole("vcpu", vcpu, _MAX_VCPU)
    if ttl is not None:
        ttl = _seconds("ttl", ttl, _MAX_TTL_S)
    if timeout is not None:
        ttl = _lease(ttl, timeout)
    if ttl is not None:
        bounds["ttl"] = ttl
    return bounds


def _lease(ttl: float | None, timeout: float) -> float:
    """Return the program's limit under a caller's deadline: when the caller has gone, nothing need run on.

    One second longer than the deadline, so that the deadline always comes first and the outcome is the same
    every time.
    """
    ends = _MAX_TTL_S if timeout >= _MAX_TTL_S else max(1, math.ceil(timeout)) + 1
    return min(ttl or _MAX_TTL_S, ends)


def _check_bounds(body: Mapping[str, Any]) -> None:
    try:
        check_bounds(body, ExecuteRequest)
        check_exec_size(body.get("args") or (), body.get("env") or {})
    except BoundExceededError as error:
        raise InvalidRequestError(str(error)) from None


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise InvalidRequestError(f"{name} must be text (str), not {type(value).__name__}")


def _words(args: Iterable[str], name: str = "args") -> list[str]:
    if isinstance(args, str | bytes):
        raise InvalidRequestError(f"{name} must be a list of texts, not one text")
    words = list(args)
    for word in words:
        if "\0" in _text(f"an item of {name}", word):
            raise InvalidRequestError(f"{name} holds a NUL character, which no argument can")
    return words


def _seconds(name: str, value: object, most: int) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
        return value
    raise InvalidRequestError(f"{name} must be a number of seconds above 0, at most {most}")


def _whole(name: str, value: object, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise InvalidRequestError(f"{name} must be a whole number from 1 to {most}")


def _environment(env: object) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise InvalidRequestError("env must be a mapping from names to texts")
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidRequestError("a name in env is not text, is empty, or holds '=' or a NUL character")
        if not isinstance(value, str):
            raise InvalidRequestError(f"env[{name!r}] must be text (str), not {type(value).__name__}")
        if "\0" in value:
            raise InvalidRequestError(f"env[{name!r}] holds a NUL character, which no environment can")
    return dict(env)


def command_members(command: str, timeout: float | None, input_files: InputFiles | None) -> dict[str, Any]:
    """Return the body of a command in a session or service.

    Args:
        command: The command.
        timeout: Seconds the command may run; None means no limit.
        input_files: Files for it.

    Raises:
        InvalidRequestError: The time limit is not a number of seconds.
    """
    return {"command": command, "timeout": limit_ms(timeout), "input_files": input_files}


def limit_ms(timeout: float | None) -> int:
    """Return a time limit in milliseconds, as the wire has it: 0 for none.

    Raises:
        InvalidRequestError: It is not a number of seconds.
    """
    if timeout is None:
        return 0
    if not 0 < timeout < float("inf"):
        raise InvalidRequestError("timeout must be a number of seconds above zero, or None for no limit")
    return math.ceil(timeout * 1000)


def command_patience(timeout: float | None, usual: float) -> float:
    """Return the seconds to wait for the answer of a command that may run for `timeout` seconds."""
    return _DAY_S if timeout is None else max(usual, timeout + _MARGIN_S)


def some(items: Iterable[Any] | None) -> list[Any] | None:
    """Return an argument as a list, also a single text or number; None for None."""
    if items is None:
        return None
    return [items] if isinstance(items, str | int) else list(items)


def metadata_query(metadata: Mapping[str, str] | None) -> dict[str, object] | None:
    """Return the query that finds objects by their metadata."""
    return None if metadata is None else {"metadata": urlencode(metadata)}
