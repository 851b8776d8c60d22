"""The input of a program (environment, files, standard input), checked before a request is accepted."""

from __future__ import annotations

import base64
import binascii

from unsandbox.engine.config import EngineConfig
from unsandbox.engine.errors import InvalidRequest, TooLarge
from unsandbox.protocol import models
from unsandbox.protocol.bounds import (
    MAX_ENV_VARS,
    MAX_INPUT_FILES,
    BoundExceededError,
    check_exec_size,
)
from unsandbox.protocol.contents import Content
from unsandbox.protocol.held import HeldInputFile
from unsandbox.protocol.names import clash
from unsandbox.sandbox.languages.table import SAME_NAME, input_name

LARGE_REQUEST = 128 * 1024
"""Characters of program, input and files that the event loop can read within a few milliseconds."""


def is_large(request: models.ExecuteRequest) -> bool:
    """Return whether a thread should read a request, because it is too large for the event loop."""
    held = [file for file in request.input_files or () if not isinstance(file, HeldInputFile)]
    texts = (request.code, request.stdin or "", request.stdin_base64 or "", *(file.content for file in held))
    return sum(map(len, texts)) > LARGE_REQUEST


def check_request(request: models.ExecuteRequest, config: EngineConfig) -> None:
    """Refuse a request that can never run.

    Raises:
        InvalidRequest: An environment variable, file name or standard input is not usable.
        TooLarge: Program or files exceed the limits.
    """
    if len(request.code) > config.code_bytes:
        raise TooLarge(f"the program is larger than {config.code_bytes >> 20} MiB; send data as input files")
    _check_bytes(request.code, "code")
    for name, words in (("args", request.args), ("compiler_args", request.compiler_args)):
        for word in words or ():
            if "\0" in word:
                raise InvalidRequest(f"{name}: an argument must not contain a NUL byte")
            _check_bytes(word, name)
    env = request.env or {}
    if len(env) > MAX_ENV_VARS:
        raise InvalidRequest(f"env has {len(env)} variables; at most {MAX_ENV_VARS} are allowed")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest(
                "env: names must be non-empty and without '=', and must not contain a NUL byte, nor must values"
            )
        _check_bytes(name + value, "env")
    try:
        check_exec_size(request.args or (), env)
    except BoundExceededError as error:
        raise InvalidRequest(f"{error}; send data as input files") from error
    if request.stdin is not None and request.stdin_base64 is not None:
        raise InvalidRequest("pass stdin or stdin_base64, not both")
    if request.return_wasm_artifact:
        raise InvalidRequest("this server does not compile to WebAssembly; omit return_wasm_artifact")


def stdin_bytes(request: models.ExecuteRequest) -> bytes:
    """Return the program's standard input.

    Raises:
        InvalidRequest: `stdin_base64` is not base64, or `stdin` is not text that can be written.
    """
    if request.stdin_base64 is None:
        _check_bytes(request.stdin or "", "stdin")
        return (request.stdin or "").encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(request.stdin_base64, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("stdin_base64 is not valid base64 (standard alphabet, padded)") from None


def input_files(given: list[models.InputFile], config: EngineConfig) -> dict[str, bytes | Content]:
    """Return the content of the input files by name, as bytes or as a place in a file; names may have folders.

    Raises:
        InvalidRequest: There are too many files, or a name is invalid or used twice.
        TooLarge: The files together exceed the limit.
    """
    files: dict[str, bytes | Content] = {}
    if len(given) > MAX_INPUT_FILES:
        raise InvalidRequest(f"{len(given)} input files; at most {MAX_INPUT_FILES} are allowed")
    total = 0
    for file in given:
        # Historical clients send trailing newlines.
        try:
            name = input_name(file.filename.strip())
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        if name in files:
            raise InvalidRequest(SAME_NAME)
        files[name] = file.source
        total += len(files[name])
        if total > config.input_bytes:
            raise TooLarge(f"the input files together exceed {config.input_bytes >> 20} MiB")
    if (both := clash(set(files))) is not None:
        raise InvalidRequest(f"input_files: {both[:80]!r} is both a file and the folder of another file")
    return files


def input_modes(given: list[models.InputFile]) -> dict[str, int]:
    """Return the requested permission bits of input files, by the names of `input_files`."""
    return {input_name(file.filename.strip()): file.mode for file in given if file.mode is not None}


def _check_bytes(text: str, what: str) -> None:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} contains a lone surrogate, which UTF-8 cannot represent") from None
