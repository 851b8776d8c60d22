"""Images: published copies of a service or snapshot, which can be shared with other keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from unsandbox._async.base import Connected
from unsandbox._compat.aio import OneTimeCode
from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.options import some
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.images import Image, ImageList, Pictures, Trusted, Visibility
from unsandbox.protocol.models import NetworkModeName
from unsandbox.protocol.services import Service


class ImageMethods(Connected):
    """Methods of a client for images, and for pictures, which are something else."""

    async def list_images(self, which: Literal["owned", "shared", "public"] | None = None) -> ImageList:
        """Return the images that this key may use, newest first.

        Args:
            which: Only its own, only those shared with it, or only public ones.
        """
        if which not in (None, "owned", "shared", "public"):
            raise InvalidRequestError("which must be 'owned', 'shared' or 'public'")
        return await self._do(f"list_{which}_images" if which else "list_images", ImageList)

    async def publish_image(
        self,
        source_type: Literal["service", "snapshot"],
        source_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
    ) -> Image:
        """Make an image of a service or snapshot; it is private at first.

        Args:
            source_type: `service` or `snapshot`.
            source_id: Which one.
            name: A name for people.
            description: What it is.
        """
        return await self._do(
            "publish_image",
            Image,
            body={
                "source_type": source_type,
                "source_id": source_id,
                "name": name,
                "description": description,
            },
            timeout=LONG_S,
        )

    async def get_image(self, image_id: str) -> Image:
        """Return an image.

        Args:
            image_id: Which image.

        Raises:
            NotFoundError: There is no such image, or this key may not see it.
        """
        return await self._do("get_image", Image, image_id)

    async def delete_image(self, image_id: str, *, otp: OneTimeCode | None = None) -> Image:
        """Delete an image.

        Args:
            image_id: Which image.
            otp: One-time code, where the server wants one.
        """
        return await self._do("delete_image", Image, image_id, otp=otp)

    async def lock_image(self, image_id: str) -> Image:
        """Protect an image from deletion.

        Args:
            image_id: Which image.
        """
        return await self._do("lock_image", Image, image_id)

    async def unlock_image(self, image_id: str, *, otp: OneTimeCode | None = None) -> Image:
        """Take the protection off an image.

        Args:
            image_id: Which image.
            otp: One-time code, where the server wants one.
        """
        return await self._do("unlock_image", Image, image_id, otp=otp)

    async def set_image_visibility(self, image_id: str, visibility: Visibility) -> Image:
        """Say who may see an image.

        Args:
            image_id: Which image.
            visibility: `private`, `unlisted` (whoever knows the id) or `public`.
        """
        return await self._do("set_image_visibility", Image, image_id, body={"visibility": visibility})

    async def grant_image_access(self, image_id: str, trusted_api_key: str) -> Trusted:
        """Let another key use an image.

        Args:
            image_id: Which image.
            trusted_api_key: The public key.

        Returns:
            All keys that the image trusts.
        """
        members = {"trusted_api_key": trusted_api_key}
        return await self._do("grant_image_access", Trusted, image_id, body=members)

    async def revoke_image_access(self, image_id: str, trusted_api_key: str) -> Trusted:
        """Let another key no longer use an image.

        Args:
            image_id: Which image.
            trusted_api_key: The public key.

        Returns:
            All keys that the image trusts.
        """
        members = {"trusted_api_key": trusted_api_key}
        return await self._do("revoke_image_access", Trusted, image_id, body=members)

    async def list_image_trusted(self, image_id: str) -> Trusted:
        """Return the keys that an image trusts.

        Args:
            image_id: Which image.
        """
        return await self._do("list_image_trusted", Trusted, image_id)

    async def transfer_image(self, image_id: str, to_api_key: str, *, otp: OneTimeCode | None = None) -> Image:
        """Give an image to another key.

        Args:
            image_id: Which image.
            to_api_key: The public key of the new owner.
            otp: One-time code, where the server wants one.
        """
        members = {"to_api_key": to_api_key}
        return await self._do("transfer_image", Image, image_id, body=members, otp=otp)

    async def spawn_image(
        self,
        image_id: str,
        *,
        name: str | None = None,
        ports: Iterable[int] | None = None,
        bootstrap: str | None = None,
        network_mode: NetworkModeName | None = None,
        vcpu: int | None = None,
        shell: str | None = None,
    ) -> Service:
        """Start a service from an image.

        Args:
            image_id: Which image.
            name: Name of the service.
            ports: Ports on which its program listens.
            bootstrap: A command that starts the program, or the URL of a script; without it, the image's own.
            network_mode: As for `create_service`.
            vcpu: Processors, 1 to 8.
            shell: Shell that runs the bootstrap.
        """
        return await self._do(
            "spawn_image",
            Service,
            image_id,
            body={
                "name": name,
                "ports": some(ports),
                "bootstrap": bootstrap,
                "network_mode": network_mode,
                "vcpu": vcpu,
                "shell": shell,
            },
            timeout=LONG_S,
        )

    async def clone_image(
        self, image_id: str, *, name: str | None = None, description: str | None = None
    ) -> Image:
        """Copy an image; the copy is this key's own and private.

        Args:
            image_id: Which image.
            name: Name of the copy.
            description: What it is.
        """
        members = {"name": name, "description": description}
        return await self._do("clone_image", Image, image_id, body=members, timeout=LONG_S)

    async def generate_picture(
        self,
        prompt: str,
        *,
        model: str | None = None,
        size: str | None = None,
        quality: str | None = None,
        n: int | None = None,
    ) -> Pictures:
        """Have a picture drawn from a description. Only the hosted service can; other servers answer 501.

        Args:
            prompt: What is to be seen.
            model: Which model draws it.
            size: Such as `1024x1024`.
            quality: `standard` or `hd`.
            n: How many.

        Returns:
            URLs or base64 data, as the service gives them.
        """
        return await self._do(
            "generate_picture",
            Pictures,
            body={"prompt": prompt, "model": model, "size": size, "quality": quality, "n": n},
            timeout=LONG_S,
        )
