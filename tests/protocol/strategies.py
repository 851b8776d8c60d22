"""Hypothesis strategies for the wire: texts that stay UTF-8, JSON values, and every model, built from its types."""

from __future__ import annotations

import importlib
import pkgutil
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from unsandbox import protocol
from unsandbox.protocol.models import WireModel


def _models(base: type[WireModel] = WireModel) -> list[type[WireModel]]:
    found = []
    for model in base.__subclasses__():
        if model.LAZY_FIELD:
            continue  # The same on the wire as what it inherits from.
        found += [model, *_models(model)]
    return found


for _module in pkgutil.walk_packages(protocol.__path__, f"{protocol.__name__}."):
    importlib.import_module(_module.name)
MODELS = tuple(model for model in _models() if model.__module__.startswith(protocol.__name__))
"""Every type of the wire, in whichever module it stands."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
"""Any text that can be written as UTF-8."""

surrogate_texts = st.tuples(texts, st.characters(categories=["Cs"]), texts).map("".join)
"""A text with a lone surrogate in it."""

integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)

json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=5)

_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: integers,
    float: floats,
    bool: st.booleans(),
    type(None): st.none(),
    Any: json_values,
}


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a field's type."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if isinstance(kind, type) and issubclass(kind, WireModel):
        return of_model(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(arguments[0], next(part for part in arguments[1:] if isinstance(part, msgspec.Meta)))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(of_type, arguments))
    if origin is list:
        return st.lists(of_type(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(texts, of_type(arguments[1]), max_size=3)
    raise NotImplementedError(f"no strategy for {kind}")


def _bounded(kind: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(meta.ge, meta.le)
    if kind is float:
        low, above = (meta.ge, False) if meta.gt is None else (meta.gt, True)
        return st.floats(low, meta.le, exclude_min=above, allow_nan=False, allow_infinity=False)
    if get_origin(kind) is list:
        return st.lists(of_type(get_args(kind)[0]), min_size=meta.min_length or 0, max_size=4)
    if kind is not str:
        return of_type(kind)
    found = texts if meta.pattern is None else st.from_regex(meta.pattern)
    low, high = meta.min_length or 0, meta.max_length
    return found.filter(lambda text: low <= len(text) and (high is None or len(text) <= high))


def of_model(model: type[WireModel]) -> st.SearchStrategy[Any]:
    """Return a strategy for a model: every field of every type that its annotation allows."""
    hints = get_type_hints(model, include_extras=True)
    members = {name: of_type(hints[name]) for name in model.__struct_fields__}
    if "error" in members:
        # An empty error is never written (wire document, 3), so it cannot come back.
        members["error"] = members["error"].filter(lambda text: text != "")
    return st.builds(model, **members)


any_model = st.one_of(*map(of_model, MODELS))
