"""Bounds of requests: the longest text, list and mapping of every request type.

The fields of requests are made of the types below. The client checks a request against them before it is sent,
and the server when it is read. OpenAPI and `docs/protocol.md` list them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import inspect

KIB, MIB = 1 << 10, 1 << 20

MAX_ENV_VARS = 256
MAX_INPUT_FILES = 1000
MAX_WAITED_JOBS = 1000
MAX_ARGS = 32 * KIB
MAX_PORTS = 100
MAX_DOMAINS = 100
MAX_VAULT_KEYS = 4096
MAX_METADATA = 64
CODE_CHARACTERS = 16 * MIB
SCRIPT_BYTES = 4 * MIB
INPUT_BYTES = 512 * MIB
_BASE64_CHARACTERS = (INPUT_BYTES + 2) // 3 * 4
EXEC_STRING_BYTES = 128 * KIB - 1
"""Of one argument, or one variable as `NAME=value`: Linux takes no longer one."""
EXEC_BYTES = 3 * MIB // 2
"""All arguments and variables of a program together; Linux takes 2 MiB, with what it adds."""
LARGE = MIB
"""A text that may be longer than this is data: one that is too long is answered with 413 and not with 400."""
SMALL_BODY = 2 * MIB
"""Largest body of a request without code, scripts and files."""

Word = Annotated[str, msgspec.Meta(max_length=64)]
"""The name of a language, a shell, a kind."""
Identifier = Annotated[str, msgspec.Meta(max_length=255)]
"""The id or name of an object, or a public key."""
HostName = Annotated[str, msgspec.Meta(max_length=255)]
Url = Annotated[str, msgspec.Meta(max_length=8 * KIB)]
FileName = Annotated[str, msgspec.Meta(max_length=4 * KIB)]
Argument = Annotated[str, msgspec.Meta(max_length=EXEC_STRING_BYTES)]
EnvName = Annotated[str, msgspec.Meta(max_length=1 * KIB)]
EnvValue = Annotated[str, msgspec.Meta(max_length=EXEC_STRING_BYTES)]
Code = Annotated[str, msgspec.Meta(max_length=CODE_CHARACTERS)]
Script = Annotated[str, msgspec.Meta(max_length=SCRIPT_BYTES)]
Input = Annotated[str, msgspec.Meta(max_length=INPUT_BYTES)]
Base64 = Annotated[str, msgspec.Meta(max_length=_BASE64_CHARACTERS)]
Description = Annotated[str, msgspec.Meta(max_length=10_000)]
Prompt = Annotated[str, msgspec.Meta(max_length=32 * KIB)]
WaitSeconds = Annotated[float, msgspec.Meta(ge=0, le=90)]
"""How long a request may wait for news."""
Search = Annotated[str, msgspec.Meta(max_length=1000)]

Args = Annotated[list[Argument], msgspec.Meta(max_length=MAX_ARGS)]
Environment = Annotated[dict[EnvName, EnvValue], msgspec.Meta(max_length=MAX_ENV_VARS)]
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=128)], Annotated[str, msgspec.Meta(max_length=2 * KIB)]],
    msgspec.Meta(max_length=MAX_METADATA),
]
"""Names and values that a client keeps with an object, to find it again."""
HostNames = Annotated[list[HostName], msgspec.Meta(max_length=MAX_DOMAINS)]


class BoundExceededError(ValueError):
    """A member of a request is longer than it may be; the message names it and the bound, and not its value.

    Attributes:
        bound: The largest length.
    """

    def __init__(self, path: str, length: int, bound: int, unit: str) -> None:
        super().__init__(f"{path} has {length} {unit}; at most {bound} are allowed")
        self.bound = bound


def check_bounds(members: Mapping[str, Any], model: type[msgspec.Struct], path: str = "") -> None:
    """Check the lengths of the members of one object, but not those of nested objects.

    Args:
        members: The object, by the names of the fields.
        model: Its type.
        path: Path of the object in the request: `input_files[3].`.

    Raises:
        BoundExceededError: One is too long.

    Example:
        >>> from unsandbox.protocol.services import DomainsRequest
        >>> check_bounds({"add": ["a.example"] * 101}, DomainsRequest)
        Traceback (most recent call last):
        unsandbox.protocol.bounds.BoundExceededError: add has 101 items; at most 100 are allowed
    """
    for name, kind in _bounded(model):
        if (value := members.get(name)) is not None:
            _check(value, kind, f"{path}{name}")


def check_exec_size(args: Sequence[str], env: Mapping[str, str]) -> None:
    """Check the lengths of a program's arguments and variables as Linux counts them, in bytes.

    Raises:
        BoundExceededError: One is too long, or all together are; the message names a variable.

    Example:
        >>> check_exec_size([], {"A": "\u00e9" * 70_000})
        Traceback (most recent call last):
        unsandbox.protocol.bounds.BoundExceededError: env['A'] has 140002 bytes; at most 131071 are allowed
    """
    strings = [(f"args[{number}]", word) for number, word in enumerate(args)]
    strings += [(f"env[{name!r}]", f"{name}={value}") for name, value in env.items()]
    total = 0
    for path, text in strings:
        size = len(text.encode("utf-8", "surrogatepass"))
        _compare(path, size, EXEC_STRING_BYTES, "bytes")
        total += size + 1
    _compare("args and env together", total, EXEC_BYTES, "bytes")


def bounds_of(model: type[msgspec.Struct]) -> Iterator[tuple[str, int | None, str]]:
    """Yield every text, list and mapping of a type and the types in it: its path, its bound, what is counted.

    Example:
        >>> from unsandbox.protocol.models import InputFile
        >>> list(bounds_of(InputFile))
        [('filename', 4096, 'characters'), ('content', 715827884, 'characters')]
    """
    for field in fields_of(model):
        yield from _walk(field.type, field.name)


def takes_data(model: type[msgspec.Struct] | None) -> bool:
    """Return whether a request has code, a script or files, so that only the server's limit bounds its body."""
    return model is not None and any(bound is None or bound > LARGE for _, bound, _ in bounds_of(model))


def fields_of(model: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """Return the fields of a type as msgspec understands them."""
    info = inspect.type_info(model)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{model} is not a request type")
    return info.fields


@functools.cache
def _bounded(model: type[msgspec.Struct]) -> tuple[tuple[str, inspect.Type], ...]:
    kinds = ((field.name, _given(field.type)) for field in fields_of(model))
    return tuple((name, kind) for name, kind in kinds if getattr(kind, "max_length", None) is not None)


def _given(kind: inspect.Type) -> inspect.Type:
    """Return the type of a value that is there: the one beside None."""
    if isinstance(kind, inspect.UnionType):
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return others[0] if len(others) == 1 else kind
    return kind


def _check(value: object, kind: inspect.Type, path: str) -> None:
    # Values of another type are refused because of their type.
    if isinstance(value, str) and isinstance(kind, inspect.StrType):
        _compare(path, len(value), kind.max_length, "characters")
    elif isinstance(value, list) and isinstance(kind, inspect.ListType):
        _compare(path, len(value), kind.max_length, "items")
        for number, item in enumerate(value):
            _check(item, kind.item_type, f"{path}[{number}]")
    elif isinstance(value, dict) and isinstance(kind, inspect.DictType):
        _compare(path, len(value), kind.max_length, "members")
        for name, item in value.items():
            _check(name, kind.key_type, f"a name in {path}")
            _check(item, kind.value_type, f"{path}[{name!r}]")


def _compare(path: str, length: int, bound: int | None, unit: str) -> None:
    if bound is not None and length > bound:
        raise BoundExceededError(path, length, bound, unit)


def _walk(kind: inspect.Type, path: str) -> Iterator[tuple[str, int | None, str]]:
    match kind:
        case inspect.StrType():
            yield path, kind.max_length, "characters"
        case inspect.BytesType() | inspect.ByteArrayType():
            yield path, kind.max_length, "bytes"
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
            yield path, kind.max_length, "items"
            yield from _walk(kind.item_type, f"{path}[]")
        case inspect.DictType():
            yield path, kind.max_length, "members"
            yield from _walk(kind.key_type, f"{path} (name)")
            yield from _walk(kind.value_type, f"{path} (value)")
        case inspect.StructType():
            for field in kind.fields:
                yield from _walk(field.type, f"{path}.{field.name}")
        case inspect.UnionType():
            for one in kind.types:
                yield from _walk(one, path)
        case inspect.AnyType() | inspect.RawType() | inspect.CustomType():
            yield path, None, "anything"
        case _:
            return
