"""What is wrong with a member of a request, in words: which values it may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?(.*)`)?")
_AT = re.compile(r" - at `\$\.?(.*)`\Z")
_STEP = re.compile(r"([^.\[]+)|\[(\d+|\.\.\.)\]")
_SHOWN = 40
PATTERNS = {
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(?![\s\S])": (
        "1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end"
    ),
    r"^[A-Za-z0-9_-]{1,64}(?![\s\S])": "1 to 64 letters, digits, hyphens and underscores",
    r"^[a-z0-9][a-z0-9._-]*(?![\s\S])": "lower-case letters, digits, dots, underscores and hyphens",
    r"^[^\[\]{}\x00-\x1f\x7f]*(?![\s\S])": "text without brackets, braces and control characters",
}
"""What the patterns of texts mean; a test compares them with those of all requests."""


def explain(problem: str, value: Mapping[str, Any], model: type[msgspec.Struct]) -> str:
    """Return the complaint about a request in words.

    Args:
        problem: What `msgspec` says.
        value: The request.
        model: Its type.

    Example:
        >>> from unsandbox.protocol.models import ExecuteRequest
        >>> explain("Expected `int` <= 8 - at `$.vcpu`", {"vcpu": 9}, ExecuteRequest)
        'vcpu must be a whole number from 1 to 8, not 9'
    """
    if found := _MISSING.fullmatch(problem):
        return f"{f'{found[2]}.' if found[2] else ''}{found[1]} is missing"
    place = _AT.search(problem)
    if place is None or not place[1]:
        return problem
    kind: inspect.Type | None = inspect.type_info(model)
    given: Any = value
    for name, index in _STEP.findall(place[1]):
        kind, given = _member(kind, name, index), _value(given, name, index)
    wanted = _words(_given(kind))
    if wanted is None:
        return problem
    name = place[1]
    if name.endswith("[...]"):
        name = f"a value in {name.removesuffix('[...]')}"
    return f"{name} must be {wanted}{_but(given)}"


def _member(kind: inspect.Type | None, name: str, index: str) -> inspect.Type | None:
    kind = _given(kind)
    if isinstance(kind, inspect.StructType) and name:
        return next((field.type for field in kind.fields if field.encode_name == name), None)
    if isinstance(kind, inspect.ListType) and index:
        return kind.item_type
    return kind.value_type if isinstance(kind, inspect.DictType) else None


def _value(given: Any, name: str, index: str) -> Any:
    if isinstance(given, Mapping) and name:
        return given.get(name)
    if isinstance(given, list) and index.isdigit() and int(index) < len(given):
        return given[int(index)]
    return None


def _given(kind: inspect.Type | None) -> inspect.Type | None:
    if isinstance(kind, inspect.UnionType):
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        return others[0] if len(others) == 1 else None
    return kind


def _words(kind: inspect.Type | None) -> str | None:
    match kind:
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType(pattern=str() as pattern):
            return PATTERNS.get(pattern)
        case inspect.StrType():
            return "text"
        case inspect.ListType(item_type=inspect.StrType()):
            return "a list of texts"
        case inspect.ListType():
            return "a list"
        case inspect.DictType(value_type=inspect.StrType()):
            return "an object whose values are texts"
        case inspect.DictType() | inspect.StructType():
            return "an object"
        case _:
            return None


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    match kind.ge, kind.gt, kind.le:
        case None, None, None:
            return ""
        case None, None, most:
            return f" of at most {most:g}"
        case None, above, None:
            return f" above {above:g}"
        case None, above, most:
            return f" above {above:g}, at most {most:g}"
        case least, _, None:
            return f" of at least {least:g}"
        case least, _, most:
            return f" from {least:g} to {most:g}"


def _but(given: object) -> str:
    if isinstance(given, str | int | float) and len(text := repr(given)) <= _SHOWN:
        return f", not {text}"
    return ""
