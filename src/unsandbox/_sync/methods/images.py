# Generated from src/unsandbox/_async/methods/images.py by scripts/unasync.py; change that one.
"""Images: published copies of a service or snapshot, which can be shared with other keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from unsandbox._compat.blocking import OneTimeCode
from unsandbox._shared.deadline import LONG_S
from unsandbox._shared.options import some
from unsandbox._sync.base import Connected
from unsandbox.errors import InvalidRequestError
from unsandbox.protocol.images import Image, ImageList, Pictures, Trusted, Visibility
from unsandbox.protocol.models import NetworkModeName
from unsandbox.protocol.services import Service


class ImageMethods(Connected):
    """Methods of a client for images, and for generated pictures."""

    def list_images(self, which: Literal["owned", "shared", "public"] | None = None) -> ImageList:
        """Return the images that the key may use, newest first.

        Args:
            which: `owned`, `shared` or `public`. Default: all of them.
        """
        if which not in (None, "owned", "shared", "public"):
            raise InvalidRequestError("which must be 'owned', 'shared' or 'public'")
        return self._do(f"list_{which}_images" if which else "list_images", ImageList)

    def publish_image(
        self,
        source_type: Literal["service", "snapshot"],
        source_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
    ) -> Image:
        """Publish a service or snapshot as a private image.

        Args:
            source_type: `service` or `snapshot`.
            source_id: Id of the source.
            name: Display name.
            description: Description of its content.
        """
        return self._do(
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

    def get_image(self, image_id: str) -> Image:
        """Return an image.

        Args:
            image_id: Id of the image.

        Raises:
            NotFoundError: The image does not exist, or the key has no access to it.
        """
        return self._do("get_image", Image, image_id)

    def delete_image(self, image_id: str, *, otp: OneTimeCode | None = None) -> Image:
        """Delete an image.

        Args:
            image_id: Id of the image.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return self._do("delete_image", Image, image_id, otp=otp)

    def lock_image(self, image_id: str) -> Image:
        """Protect an image from deletion.

        Args:
            image_id: Id of the image.
        """
        return self._do("lock_image", Image, image_id)

    def unlock_image(self, image_id: str, *, otp: OneTimeCode | None = None) -> Image:
        """Allow an image to be deleted again.

        Args:
            image_id: Id of the image.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        return self._do("unlock_image", Image, image_id, otp=otp)

    def set_image_visibility(self, image_id: str, visibility: Visibility) -> Image:
        """Set the visibility of an image.

        Args:
            image_id: Id of the image.
            visibility: `private`, `unlisted` (everyone who knows the id) or `public`.
        """
        return self._do("set_image_visibility", Image, image_id, body={"visibility": visibility})

    def grant_image_access(self, image_id: str, trusted_api_key: str) -> Trusted:
        """Allow another key to use an image.

        Args:
            image_id: Id of the image.
            trusted_api_key: The public key.

        Returns:
            All keys with access to the image.
        """
        members = {"trusted_api_key": trusted_api_key}
        return self._do("grant_image_access", Trusted, image_id, body=members)

    def revoke_image_access(self, image_id: str, trusted_api_key: str) -> Trusted:
        """Withdraw another key's access to an image.

        Args:
            image_id: Id of the image.
            trusted_api_key: The public key.

        Returns:
            All keys with access to the image.
        """
        members = {"trusted_api_key": trusted_api_key}
        return self._do("revoke_image_access", Trusted, image_id, body=members)

    def list_image_trusted(self, image_id: str) -> Trusted:
        """Return the keys with access to an image.

        Args:
            image_id: Id of the image.
        """
        return self._do("list_image_trusted", Trusted, image_id)

    def transfer_image(self, image_id: str, to_api_key: str, *, otp: OneTimeCode | None = None) -> Image:
        """Transfer the ownership of an image to another key.

        Args:
            image_id: Id of the image.
            to_api_key: The public key of the new owner.
            otp: One-time code, or a function that returns it, if the server requires one.
        """
        members = {"to_api_key": to_api_key}
        return self._do("transfer_image", Image, image_id, body=members, otp=otp)

    def spawn_image(
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
            image_id: Id of the image.
            name: Name of the service.
            ports: Ports the program listens on.
            bootstrap: A command, or the URL of a script. Default: the image's bootstrap.
            network_mode: See `create_service`.
            vcpu: Processors, 1 to 8.
            shell: Shell that runs the bootstrap.
        """
        return self._do(
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

    def clone_image(self, image_id: str, *, name: str | None = None, description: str | None = None) -> Image:
        """Copy an image. The copy is private and belongs to this key.

        Args:
            image_id: Id of the image.
            name: Name of the copy.
            description: Description of its content.
        """
        members = {"name": name, "description": description}
        return self._do("clone_image", Image, image_id, body=members, timeout=LONG_S)

    def generate_picture(
        self,
        prompt: str,
        *,
        model: str | None = None,
        size: str | None = None,
        quality: str | None = None,
        n: int | None = None,
    ) -> Pictures:
        """Generate pictures from a description. Hosted service only; other servers answer 501.

        Args:
            prompt: Description of the picture.
            model: Name of the model.
            size: Size in pixels, such as `1024x1024`.
            quality: `standard` or `hd`.
            n: Number of pictures.

        Returns:
            URLs or base64 data.
        """
        return self._do(
            "generate_picture",
            Pictures,
            body={"prompt": prompt, "model": model, "size": size, "quality": quality, "n": n},
            timeout=LONG_S,
        )
