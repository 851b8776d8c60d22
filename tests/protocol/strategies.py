"""Hypothesis strategies for the wire: texts that stay UTF-8, JSON values, and every model, built from its types."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from unsandbox.protocol import models
from unsandbox.protocol.models import WireModel

MODELS = tuple(
    value
    for value in vars(models).values()
    if isinstance(value, type) and issubclass(value, WireModel) and value is not WireModel
)

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
        (meta,) = (part for part in arguments[1:] if isinstance(part, msgspec.Meta))
        return st.integers(meta.ge, meta.le)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(of_type, arguments))
    if origin is list:
        return st.lists(of_type(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(texts, of_type(arguments[1]), max_size=3)
    raise NotImplementedError(f"no strategy for {kind}")


def of_model(model: type[WireModel]) -> st.SearchStrategy[Any]:
    """Return a strategy for a model: every field of every type that its annotation allows."""
    hints = get_type_hints(model, include_extras=True)
    members = {name: of_type(hints[name]) for name in model.__struct_fields__}
    if "error" in members:
        # An empty error is never written (wire document, 3), so it cannot come back.
        members["error"] = members["error"].filter(lambda text: text != "")
    return st.builds(model, **members)


any_model = st.one_of(*map(of_model, MODELS))
