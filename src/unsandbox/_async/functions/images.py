"""Functions for images, and for generated pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from unsandbox._async.functions.context import connect
from unsandbox._shared.deadline import LONG_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from unsandbox._compat.aio import OneTimeCode
    from unsandbox._shared.results import (
        ImageListResult,
        ImageResult,
        PicturesResult,
        ServiceResult,
        TrustedResult,
    )
    from unsandbox.protocol.images import Visibility
    from unsandbox.protocol.models import NetworkModeName

__all__ = [
    "clone_image",
    "delete_image",
    "get_image",
    "grant_image_access",
    "image",
    "list_image_trusted",
    "list_images",
    "lock_image",
    "publish_image",
    "revoke_image_access",
    "set_image_visibility",
    "spawn_from_image",
    "transfer_image",
    "unlock_image",
]


async def list_images(
    filter_type: Literal["owned", "shared", "public"] | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageListResult:
    """Return the images that the key may use, newest first.

    Args:
        filter_type: `owned`, `shared` or `public`. Default: all of them.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        The list, in `images`, and its length in `count`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("ImageListResult", await caller.list_images(filter_type))


async def publish_image(
    source_type: Literal["service", "snapshot"],
    source_id: str,
    name: str | None = None,
    description: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Publish a service or snapshot as a private image.

    Args:
        source_type: `service` or `snapshot`.
        source_id: Id of the source.
        name: Display name.
        description: Description of its content.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {
        "source_type": source_type,
        "source_id": source_id,
        "name": name,
        "description": description,
    }
    return cast("ImageResult", await caller.call("publish_image", body=members, timeout=LONG_S))


async def get_image(
    image_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Return an image.

    Args:
        image_id: Id of the image.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("ImageResult", await caller.call("get_image", image_id))


async def delete_image(
    image_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Delete an image.

    Args:
        image_id: Id of the image.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("ImageResult", await caller.call("delete_image", image_id, otp=otp))


async def lock_image(
    image_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Protect an image from deletion.

    Args:
        image_id: Id of the image.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("ImageResult", await caller.call("lock_image", image_id))


async def unlock_image(
    image_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Allow an image to be deleted again.

    Args:
        image_id: Id of the image.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("ImageResult", await caller.call("unlock_image", image_id, otp=otp))


async def set_image_visibility(
    image_id: str,
    visibility: Visibility,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Set the visibility of an image.

    Args:
        image_id: Id of the image.
        visibility: `private`, `unlisted` (everyone who knows the id) or `public`.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"visibility": visibility}
    return cast("ImageResult", await caller.call("set_image_visibility", image_id, body=members))


async def grant_image_access(
    image_id: str,
    trusted_api_key: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> TrustedResult:
    """Allow another key to use an image.

    Args:
        image_id: Id of the image.
        trusted_api_key: The public key.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        All keys with access to the image, in `trusted_keys`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"trusted_api_key": trusted_api_key}
    return cast("TrustedResult", await caller.call("grant_image_access", image_id, body=members))


async def revoke_image_access(
    image_id: str,
    trusted_api_key: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> TrustedResult:
    """Withdraw another key's access to an image.

    Args:
        image_id: Id of the image.
        trusted_api_key: The public key.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        All keys with access to the image, in `trusted_keys`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"trusted_api_key": trusted_api_key}
    return cast("TrustedResult", await caller.call("revoke_image_access", image_id, body=members))


async def list_image_trusted(
    image_id: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> TrustedResult:
    """Return the keys with access to an image, in `trusted_keys`.

    Args:
        image_id: Id of the image.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    return cast("TrustedResult", await caller.call("list_image_trusted", image_id))


async def transfer_image(
    image_id: str,
    to_api_key: str,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    otp: OneTimeCode | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Transfer the ownership of an image to another key.

    Args:
        image_id: Id of the image.
        to_api_key: The public key of the new owner.
        public_key: Public key.
        secret_key: Secret key.
        otp: One-time code, or a function that returns it, if the server requires one.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"to_api_key": to_api_key}
    return cast("ImageResult", await caller.call("transfer_image", image_id, body=members, otp=otp))


async def spawn_from_image(
    image_id: str,
    name: str | None = None,
    ports: Sequence[int] | None = None,
    bootstrap: str | None = None,
    network_mode: NetworkModeName | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    vcpu: int | None = None,
    shell: str | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ServiceResult:
    """Start a service from an image.

    Args:
        image_id: Id of the image.
        name: Name of the service.
        ports: Ports the program listens on.
        bootstrap: A command, or the URL of a script. Default: the image's bootstrap.
        network_mode: See `create_service`.
        public_key: Public key.
        secret_key: Secret key.
        vcpu: Processors, 1 to 8.
        shell: Shell that runs the bootstrap.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {
        "name": name,
        "ports": ports,
        "bootstrap": bootstrap,
        "network_mode": network_mode,
        "vcpu": vcpu,
        "shell": shell,
    }
    answer = await caller.call("spawn_image", image_id, body=members, timeout=LONG_S)
    return cast("ServiceResult", answer)


async def clone_image(
    image_id: str,
    name: str | None = None,
    description: str | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    *,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> ImageResult:
    """Copy an image. The copy is private and belongs to this key.

    Args:
        image_id: Id of the image.
        name: Name of the copy.
        description: Description of its content.
        public_key: Public key.
        secret_key: Secret key.
        account: See `execute_code`.
        account_index: See `execute_code`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"name": name, "description": description}
    return cast("ImageResult", await caller.call("clone_image", image_id, body=members, timeout=LONG_S))


async def image(
    prompt: str,
    *,
    model: str | None = None,
    size: str | None = None,
    quality: str | None = None,
    n: int | None = None,
    public_key: str | None = None,
    secret_key: str | None = None,
    account: int | str | None = None,
    account_index: int | str | None = None,
) -> PicturesResult:
    """Generate pictures from a description. Hosted service only; other servers answer 501.

    Args:
        prompt: Description of the picture.
        public_key: Public key.
        secret_key: Secret key.
        model: Name of the model.
        size: Size in pixels, such as `1024x1024`.
        quality: `standard` or `hd`.
        n: Number of pictures.
        account: See `execute_code`.
        account_index: See `execute_code`.

    Returns:
        URLs or base64 data, in `images`.
    """
    caller = await connect(public_key, secret_key, account, account_index)
    members = {"prompt": prompt, "model": model, "size": size, "quality": quality, "n": n}
    return cast("PicturesResult", await caller.call("generate_picture", body=members, timeout=LONG_S))
