"""The record of an image: its access rights, the lists that contain it, and the view of each key."""

from __future__ import annotations

import msgspec

from unsandbox.engine.saved.saved import SavedRecord
from unsandbox.engine.store.objects import epoch
from unsandbox.protocol.images import Image, Trusted

FILTERS = ("owned", "shared", "public")
"""Names of the lists."""


class ImageRecord(SavedRecord, kw_only=True):
    """The stored record of an image.

    Attributes:
        description: For people.
        visibility: `private`: its owner and trusted keys; `unlisted`: who knows its id; `public`: all.
        source_type: Type of the source that it was published from: `service` or `snapshot`.
        source_id: Id of that.
        trusted: Public keys that may use it.
    """

    source_type: str
    source_id: str
    description: str | None = None
    visibility: str = "private"
    trusted: list[str] = msgspec.field(default_factory=list)


def access_of(record: ImageRecord, key: str) -> str | None:
    """Return the access of a key to an image; None if the image is invisible to the key."""
    if record.owner == key:
        return "owner"
    if key in record.trusted:
        return "trusted"
    return None if record.visibility == "private" else "public"


def groups_of(record: ImageRecord, key: str) -> set[str]:
    """Return the lists of a key that contain an image; another key's unlisted image is in no list."""
    access = access_of(record, key)
    groups = {"owner": {"owned"}, "trusted": {"shared"}}.get(access or "", set())
    return groups | ({"public"} if record.visibility == "public" else set())


def describe(record: ImageRecord, key: str, listed: bool = False) -> Image:
    """Return a key's view of an image; only the owner sees the trusted keys."""
    access = access_of(record, key)
    return Image(
        image_id=record.object_id,
        # Historical clients take a name that is missing in a list from the next item.
        name=record.name or record.object_id,
        description=None if listed else record.description,
        fingerprint=record.sha256,
        visibility=record.visibility,
        source_type=record.source_type,
        source_id=record.source_id,
        owner_api_key=record.owner,
        size_bytes=record.size,
        locked=record.locked,
        access=access,
        created_at=epoch(record.created_at),
        trusted_keys=record.trusted if access == "owner" and not listed else None,
    )


def trusted_of(record: ImageRecord) -> Trusted:
    """Return the keys that an image trusts."""
    return Trusted(trusted_keys=record.trusted, count=len(record.trusted))
