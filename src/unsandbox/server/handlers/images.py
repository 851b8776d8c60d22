"""Images."""

from __future__ import annotations

from unsandbox.protocol.images import (
    AccessRequest,
    Image,
    ImageCloneRequest,
    ImageList,
    ImageRequest,
    PictureRequest,
    Pictures,
    SpawnRequest,
    TransferRequest,
    Trusted,
    VisibilityRequest,
)
from unsandbox.protocol.services import Service
from unsandbox.server.call import Call, read_body


async def list_images(call: Call) -> ImageList:
    """List images, with the filter of the query."""
    return _list(call, call.query.get("filter"))


async def list_owned_images(call: Call) -> ImageList:
    """List the caller's own."""
    return _list(call, "owned")


async def list_shared_images(call: Call) -> ImageList:
    """List those of others that trust the caller."""
    return _list(call, "shared")


async def list_public_images(call: Call) -> ImageList:
    """List those for everybody."""
    return _list(call, "public")


async def publish_image(call: Call) -> Image:
    """Make an image."""
    image = await call.engine.images.publish(call.owner, read_body(call, ImageRequest))
    return image.replace(message="image published")


async def get_image(call: Call) -> Image:
    """Get one image."""
    return call.engine.images.get(call.owner, call.params["id"])


async def delete_image(call: Call) -> Image:
    """Delete one image."""
    image = await call.engine.images.delete(call.owner, call.params["id"])
    return image.replace(message="image deleted")


async def lock_image(call: Call) -> Image:
    """Protect from deletion."""
    return await call.engine.images.set_locked(call.owner, call.params["id"], True)


async def unlock_image(call: Call) -> Image:
    """Take the protection off."""
    return await call.engine.images.set_locked(call.owner, call.params["id"], False)


async def set_image_visibility(call: Call) -> Image:
    """Set the visibility."""
    request = read_body(call, VisibilityRequest)
    return await call.engine.images.set_visibility(call.owner, call.params["id"], request.visibility)


async def grant_image_access(call: Call) -> Trusted:
    """Trust a key."""
    key = read_body(call, AccessRequest).trusted_api_key
    return await call.engine.images.grant(call.owner, call.params["id"], key)


async def revoke_image_access(call: Call) -> Trusted:
    """Trust a key no longer; it stands in the path or in the body."""
    key = call.params.get("key") or read_body(call, AccessRequest).trusted_api_key
    return await call.engine.images.revoke(call.owner, call.params["id"], key)


async def list_image_trusted(call: Call) -> Trusted:
    """List the trusted keys."""
    return call.engine.images.trusted(call.owner, call.params["id"])


async def transfer_image(call: Call) -> Image:
    """Give to another key."""
    to = read_body(call, TransferRequest).to_api_key
    image = await call.engine.images.transfer(call.owner, call.params["id"], to)
    return image.replace(message="image transferred")


async def spawn_image(call: Call) -> Service:
    """Start a service from it."""
    request, limit = read_body(call, SpawnRequest), call.settings.services
    service = await call.engine.images.spawn(call.owner, call.params["id"], request, limit)
    return service.replace(url=call.service_url(service.name or ""))


async def clone_image(call: Call) -> Image:
    """Copy it."""
    request = read_body(call, ImageCloneRequest)
    image = await call.engine.images.clone(call.owner, call.params["id"], request)
    return image.replace(message="image cloned")


async def generate_picture(call: Call) -> Pictures:
    """Refuse: only the hosted service draws."""
    read_body(call, PictureRequest)
    call.engine.images.refuse_pictures()


def _list(call: Call, which: str | None) -> ImageList:
    images = call.engine.images.list_of(call.owner, which)
    return ImageList(images=images, count=len(images))
