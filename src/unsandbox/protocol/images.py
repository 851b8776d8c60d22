"""Types of images: published copies of services and snapshots."""

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
    """The request of `POST /images`."""

    source_type: Literal["service", "snapshot"]
    source_id: Identifier
    name: DisplayName | None = None
    description: Description | None = None


class Image(WireModel, frozen=True, kw_only=True):
    """An image. Lists omit `trusted_keys` and `description`.

    Historical clients take the first `]` for the end of the list.
    """

    READ_ALIASES = {"id": "image_id", "trusted": "trusted_keys", "size": "size_bytes"}
    WRITE_ALIASES = {"image_id": ("id",)}

    image_id: str | None = None
    """Id of the object."""
    name: str | None = None
    """Display name."""
    description: str | None = None
    """Description by the owner."""
    fingerprint: str | None = None
    """SHA-256 of the stored bytes."""
    visibility: str | None = None
    """`private`, `unlisted` or `public`."""
    source_type: str | None = None
    """Type of the source: `snapshot` or `service`."""
    source_id: str | None = None
    """Id of the source."""
    owner_api_key: str | None = None
    """Public key of the owner."""
    size_bytes: int | None = None
    """Stored size in bytes."""
    locked: bool | None = None
    """Whether the object is protected from deletion."""
    access: str | None = None
    """Access of this key: `owner`, `trusted` or `public`."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string or a number."""
    message: str | None = None
    """A message about the object."""
    trusted_keys: list[str] | None = None
    """Public keys with access, besides the owner's."""

    @property
    def created(self) -> datetime | None:
        """`created_at` as a time in UTC."""
        return as_datetime(self.created_at)


class ImageList(WireModel, frozen=True, kw_only=True):
    """The answer of `GET /images`, newest first."""

    images: list[Image] = []
    """The images."""
    count: int | None = None
    """Length of the list."""

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


class VisibilityRequest(WireModel, frozen=True, kw_only=True):
    """The request for a new visibility."""

    visibility: Visibility


class AccessRequest(WireModel, frozen=True, kw_only=True):
    """The request to grant or withdraw a key's access."""

    READ_ALIASES = {"trusted_key": "trusted_api_key", "api_key": "trusted_api_key"}

    trusted_api_key: Identifier | None = None


class Trusted(WireModel, frozen=True, kw_only=True):
    """The keys with access to an image."""

    READ_ALIASES = {"trusted": "trusted_keys"}
    WRITE_ALIASES = {"trusted_keys": ("trusted",)}

    trusted_keys: list[str] = []
    """Public keys."""
    count: int | None = None
    """Length of the list."""


class TransferRequest(WireModel, frozen=True, kw_only=True):
    """The request to transfer an image to a new owner."""

    to_api_key: Identifier


class SpawnRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /images/{id}/spawn`, which starts a service from the image."""

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
    """The request of `POST /images/{id}/clone`."""

    name: DisplayName | None = None
    description: Description | None = None


class PictureRequest(WireModel, frozen=True, kw_only=True):
    """The request of `POST /image`, which generates pictures; hosted service only."""

    prompt: Prompt
    size: Word | None = None
    quality: Word | None = None
    n: int | None = None
    model: Word | None = None


class Pictures(WireModel, frozen=True, kw_only=True):
    """Generated pictures: URLs or base64 data."""

    images: list[Any] = []
    """The pictures."""
    created_at: str | int | float | None = None
    """Unix time in seconds, as a string or a number."""
