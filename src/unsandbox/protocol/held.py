"""Files of requests and answers whose bytes lie elsewhere than in the object."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import inspect

from unsandbox.protocol.bounds import fields_of
from unsandbox.protocol.contents import Content
from unsandbox.protocol.models import Artifact, InputFile, WireModel
from unsandbox.protocol.splitting import Mark

M = TypeVar("M", bound=WireModel)


class HeldInputFile(InputFile, frozen=True, kw_only=True):
    """An input file whose bytes lie elsewhere; `data` and `content` read them."""

    LAZY_FIELD = "content"

    held: Content

    @property  # type: ignore[misc] # it stands before the field, whose value is never looked at
    def content(self) -> str:  # noqa: D102
        return _encoded(self.held)

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return bytes(self.held)

    @property
    def source(self) -> Content:
        """Where the bytes of the file lie."""
        return self.held

    def __reduce__(self) -> tuple[Callable[..., InputFile], tuple[str, bytes]]:
        return InputFile.of, (self.filename, self.data)

    def __repr__(self) -> str:
        return f"InputFile(filename={self.filename!r}, {self.held!r})"


class HeldArtifact(Artifact, frozen=True, kw_only=True):
    """An artifact whose bytes lie in a file; `data` and `content_base64` read them, `save` copies them."""

    LAZY_FIELD = "content_base64"

    held: Content

    @property  # type: ignore[misc] # it stands before the field, whose value is never looked at
    def content_base64(self) -> str:  # noqa: D102
        return _encoded(self.held)

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return bytes(self.held)

    @property
    def source(self) -> Content:
        """Where the bytes of the file lie."""
        return self.held

    def __reduce__(self) -> tuple[Callable[..., Artifact], tuple[str, str, int]]:
        return _artifact, (self.filename, self.content_base64, len(self.held))

    def __repr__(self) -> str:
        return f"Artifact(filename={self.filename!r}, {self.held!r})"


def held_artifact(filename: str, content: Content) -> HeldArtifact:
    """Return an artifact whose bytes lie elsewhere."""
    return HeldArtifact(filename=filename, content_base64="", size=len(content), held=content)


@functools.cache
def nested(model: type[WireModel]) -> dict[str, type[WireModel]]:
    """Return which fields of a model are lists of models."""
    found = {}
    for field in fields_of(model):
        for kind in field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,):
            item = kind.item_type if isinstance(kind, inspect.ListType) else None
            if isinstance(item, inspect.StructType) and issubclass(item.cls, WireModel):
                found[field.name] = item.cls
    return found


def fill_in(model: M) -> M:
    """Return a model in which the files whose bytes were taken out of it know where they lie."""
    changes: dict[str, Any] = {}
    for name in nested(type(model)):
        if value := getattr(model, name):
            filled = [_filled(item) for item in value]
            if any(new is not old for new, old in zip(filled, value, strict=True)):
                changes[name] = filled
    return model.replace(**changes) if changes else model


def _filled(item: WireModel) -> WireModel:
    if isinstance(item, InputFile) and isinstance(item.content, Mark):
        return HeldInputFile(filename=item.filename, content="", held=item.content.content, mode=item.mode)
    if isinstance(item, Artifact) and isinstance(item.content_base64, Mark):
        return held_artifact(item.filename, item.content_base64.content)
    return fill_in(item)


def _artifact(filename: str, encoded: str, size: int) -> Artifact:
    return Artifact(filename=filename, content_base64=encoded, size=size)


def _encoded(content: Content) -> str:
    return base64.b64encode(bytes(content)).decode("ascii")
