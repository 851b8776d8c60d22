"""An image as it is stored: who may use it, in which lists it stands, and what each key sees of it."""

from __future__ import annotations

import msgspec

from unsandbox.engine.saved.saved import SavedRecord
from unsandbox.engine.store.objects import epoch
from unsandbox.protocol.images import Image, Trusted

FILTERS = ("owned", "shared", "public")
"""Names of the lists."""


class ImageRecord(SavedRecord, kw_only=True):
    """What is stored of an image.

    Attributes:
        description: For people.
        visibility: `private`: its owner and trusted keys; `unlisted`: who knows its id; `public`: all.
        source_type: `service` or `snapshot`: what it was published from.
        source_id: Id of that.
        trusted: Public keys that may use it.
    """

    source_type: str
    source_id: str
    description: str | None = None
    visibility: str = "private"
    trusted: list[str] = msgspec.field(default_factory=list)


def access_of(document: ImageRecord, key: str) -> str | None:
    """Return by what right a key may use an image, None when it may not know of it."""
    if document.owner == key:
        return "owner"
    if key in document.trusted:
        return "trusted"
    return None if document.visibility == "private" else "public"


def groups_of(document: ImageRecord, key: str) -> set[str]:
    """Return in which lists of a key an image stands; an unlisted one of others is in none."""
    access = access_of(document, key)
    groups = {"owner": {"owned"}, "trusted": {"shared"}}.get(access or "", set())
    return groups | ({"public"} if document.visibility == "public" else set())


def describe(document: ImageRecord, key: str, listed: bool = False) -> Image:
    """Return what a key may see of an image; its trusted keys are for its owner alone."""
    access = access_of(document, key)
    return Image(
        image_id=document.object_id,
        # Historical clients take a name that is missing in a list from the next item.
        name=document.name or document.object_id,
        description=None if listed else document.description,
        fingerprint=document.sha256,
        visibility=document.visibility,
        source_type=document.source_type,
        source_id=document.source_id,
        owner_api_key=document.owner,
        size_bytes=document.size,
        locked=document.locked,
        access=access,
        created_at=epoch(document.created_at),
        trusted_keys=document.trusted if access == "owner" and not listed else None,
    )


def trusted_of(document: ImageRecord) -> Trusted:
    """Return the keys that an image trusts."""
    return Trusted(trusted_keys=document.trusted, count=len(document.trusted))
