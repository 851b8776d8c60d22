"""Types of images: published copies of a service or snapshot (wire document, section 11)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from unsandbox._presentation.times import as_datetime
from unsandbox.protocol.bounds import Description, Identifier, Prompt, Script, Word
from unsandbox.protocol.models import DisplayName, NetworkModeName, Vcpu, WireModel
from unsandbox.protocol.services import Ports, ServiceName, ports_from_wire

Visibility = Literal["private", "unlisted", "public"]


class ImageRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /images` takes."""

    source_type: Literal["service", "snapshot"]
    source_id: Identifier
    name: DisplayName | None = None
    description: Description | None = None


class Image(WireModel, frozen=True, kw_only=True):
    """An image. Lists leave `trusted_keys` and `description` out.

    A historical client takes the first `]` for the list's end.
    """

    READ_ALIASES = {"id": "image_id", "trusted": "trusted_keys", "size": "size_bytes"}
    WRITE_ALIASES = {"image_id": ("id",)}

    image_id: str | None = None
    """By which it is used."""
    name: str | None = None
    """A name for people."""
    description: str | None = None
    """Whatever its owner says of it."""
    fingerprint: str | None = None
    """Hash of its bytes."""
    visibility: str | None = None
    """`private`, `unlisted` or `public`."""
    source_type: str | None = None
    """`snapshot` or `service`, of which it was made."""
    source_id: str | None = None
    """Id of that."""
    owner_api_key: str | None = None
    """Public key of its owner."""
    size_bytes: int | None = None
    """Size as it is stored."""
    locked: bool | None = None
    """Whether it is protected against deletion."""
    access: str | None = None
    """`owner`, `trusted` or `public`: by what right this key sees it."""
    created_at: str | int | float | None = None
    """Unix seconds, as text or a number."""
    message: str | None = None
    """A sentence for people."""
    trusted_keys: list[str] | None = None
    """Public keys that may use it besides its owner's."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)


class ImageList(WireModel, frozen=True, kw_only=True):
    """What `GET /images` answers, newest first."""

    images: list[Image] = []
    """The images."""
    count: int | None = None
    """How many there are."""

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


class VisibilityRequest(WireModel, frozen=True, kw_only=True):
    """Who may see an image."""

    visibility: Visibility


class AccessRequest(WireModel, frozen=True, kw_only=True):
    """A key that is to be trusted, or no longer."""

    READ_ALIASES = {"trusted_key": "trusted_api_key", "api_key": "trusted_api_key"}

    trusted_api_key: Identifier | None = None


class Trusted(WireModel, frozen=True, kw_only=True):
    """The keys that an image trusts."""

    READ_ALIASES = {"trusted": "trusted_keys"}
    WRITE_ALIASES = {"trusted_keys": ("trusted",)}

    trusted_keys: list[str] = []
    """Their public keys."""
    count: int | None = None
    """How many there are."""


class TransferRequest(WireModel, frozen=True, kw_only=True):
    """The new owner of an image."""

    to_api_key: Identifier


class SpawnRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /images/{id}/spawn` takes: a service made of the image."""

    READ_ALIASES = {"network": "network_mode"}
    COERCERS = {"ports": ports_from_wire}

    name: ServiceName | None = None
    ports: Ports | None = None
    bootstrap: Script | None = None
    network_mode: NetworkModeName | None = None
    vcpu: Vcpu | None = None
    type: Word | None = None
    shell: Word | None = None


class ImageCloneRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /images/{id}/clone` takes."""

    name: DisplayName | None = None
    description: Description | None = None


class PictureRequest(WireModel, frozen=True, kw_only=True):
    """What `POST /image` takes: a picture drawn from a description, by the hosted service only."""

    prompt: Prompt
    size: Word | None = None
    quality: Word | None = None
    n: int | None = None
    model: Word | None = None


class Pictures(WireModel, frozen=True, kw_only=True):
    """Drawn pictures: URLs or base64 data, as the service gives them."""

    images: list[Any] = []
    """The pictures."""
    created_at: str | int | float | None = None
    """Unix seconds, as text or a number."""
