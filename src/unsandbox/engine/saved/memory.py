"""Memory and running processes of a sandbox as one encrypted file, because they contain programs' secrets."""

from __future__ import annotations

import tarfile
from pathlib import Path

import zstandard

from unsandbox.engine.accounts.secretbox import SecretBox
from unsandbox.engine.errors import Damaged, InvalidRequest
from unsandbox.engine.saved.sealed_file import SealedReader, SealedWriter
from unsandbox.errors import EngineError
from unsandbox.sandbox.errors import SandboxUnavailable
from unsandbox.sandbox.host.blocking import run_long
from unsandbox.sandbox.persistent_spec import HashedBytes, PersistentSandbox
from unsandbox.sandbox.storage.hashed_file import HashedFile

_LEVEL = 1
"""Of zstd: memory images are large, and most of their bytes are zero or text."""


async def save_hot(sandbox: PersistentSandbox, archive: Path, key: bytes) -> HashedBytes:
    """Write the state of a sandbox as an encrypted archive; return its hash and size.

    Args:
        sandbox: Goes on as it was.
        archive: Where to; a folder is made beside it for the while.
        key: From `sealed_file.new_key`.

    Raises:
        InvalidRequest: Its backend cannot save memory and processes.
        OSError: The disk is full or failed.
    """
    image = archive.with_name("image")
    await write_checkpoint(sandbox, image)
    return await run_long(_pack, image, archive, key)


async def write_checkpoint(sandbox: PersistentSandbox, image: Path) -> None:
    """Write the state of a sandbox, with memory and processes, into a new folder.

    Raises:
        InvalidRequest: Its backend cannot save memory and processes.
        OSError: The disk is full or failed.
    """
    try:
        await sandbox.checkpoint(image)
    except SandboxUnavailable as error:
        raise InvalidRequest(
            "'hot' includes memory and running processes, which the backend of this one, "
            f"{sandbox.backend}, cannot save; create it with isolation 'gvisor', or leave out 'hot': "
            "then its files are saved",
            code="hot_unavailable",
        ) from error


async def load_hot(archive: Path, image: Path, sealed_key: bytes | None, box: SecretBox) -> None:
    """Turn an archive of `save_hot` into the folder that a sandbox starts from.

    Raises:
        Damaged: It was changed, or sealed by another server.
        OSError: The disk is full or failed.
    """
    try:
        key = bytes.fromhex(box.open(sealed_key or b""))
        await run_long(_unpack, archive, image, key)
    except EngineError as error:
        raise Damaged("the stored data was encrypted by another server; nothing was changed") from error
    except (ValueError, tarfile.TarError, zstandard.ZstdError) as error:
        raise Damaged(f"the stored data is unusable: {error}; nothing was changed") from error


def _pack(folder: Path, archive: Path, key: bytes) -> HashedBytes:
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    with HashedFile(archive) as file:
        with (
            # Closes the sealed writer, which writes the last of it.
            compressor.stream_writer(SealedWriter(file, key)) as compressed,  # type: ignore[arg-type]
            tarfile.open(fileobj=compressed, mode="w|") as tar,
        ):
            tar.add(folder, arcname=".")
        return file.finish()


def _unpack(archive: Path, folder: Path, key: bytes) -> None:
    folder.mkdir(mode=0o700)
    with (
        archive.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(SealedReader(file, key), closefd=False) as plain,  # type: ignore[arg-type]
        tarfile.open(fileobj=plain, mode="r|") as tar,
    ):
        tar.extractall(folder, filter="data")
