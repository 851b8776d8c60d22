"""Toolchain caches: data that a toolchain would build in each sandbox, such as archives of classes.

The command that fills a cache is in `languages.toml`. It runs in a separate sandbox on a program of this
project, so no tenant's data is involved. All sandboxes see the folder of caches read-only and write additions
to their own file systems, so no job can change what another one reads.

A cache is named by the hash of its recipe and of the toolchain on the disk. While a cache is missing or being
built, programs run without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import platform
import shutil
import stat
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from unsandbox.protocol.contents import ChunkReader, Content, chunks_of
from unsandbox.sandbox.errors import SandboxError
from unsandbox.sandbox.languages.steps import fill, fill_text, limit_values
from unsandbox.sandbox.languages.table import Language
from unsandbox.sandbox.spec import MIB, Limits, OutputSink, RunningJob, SandboxFile, SandboxSpec
from unsandbox.sandbox.system import CACHES, System

logger = logging.getLogger("unsandbox.sandbox")

VARIABLE = "UNSANDBOX_TOOLCHAIN_CACHE"
"""Environment variable that selects another folder for caches, or `off`."""

_ARCHIVE = "/tmp/artifacts/cache.tar"  # noqa: S108 - inside the sandbox, like the next
_PLACE = "/tmp/cache"  # noqa: S108
_FILL = f'mkdir "$CACHE" && nice -n 10 "$@" >&2 && tar -C "$CACHE" -cf {_ARCHIVE} .'
_LIMITS = Limits(wall_s=300.0, vcpu=2.0, artifact_bytes=512 * MIB)
_BELIEVED_S = 10.0
_UNUSED_S = 30 * 86400.0


class Starts(Protocol):
    """The part of a backend that fills caches."""

    async def start(self, spec: SandboxSpec, sink: OutputSink | None = None) -> RunningJob:
        """See `Backend`."""


def default_folder() -> Path:
    """Return the folder of caches: a public one for root, otherwise one in the user's home."""
    if os.geteuid() == 0:
        return Path("/var/cache/unsandbox/toolchains")
    return Path("~/.unsandbox/toolchain-caches").expanduser()


def with_caches(system: System, choice: str | None = None) -> System:
    """Return a system whose sandboxes see the folder of caches, if that folder can be trusted.

    Args:
        system: The system with the toolchains.
        choice: The folder, or `off`; by default the environment's `UNSANDBOX_TOOLCHAIN_CACHE`, else
            `default_folder()`.
    """
    choice = choice or os.environ.get(VARIABLE) or str(default_folder())
    if choice == "off":
        return system
    folder = Path(choice).expanduser().absolute()
    try:
        _make_folders(folder)
        status = folder.lstat()
    except OSError as error:
        logger.info("no caches for toolchains: %s", error)
        return system
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        logger.warning("no caches for toolchains: other users can write to %s", folder)
        return system
    return replace(system, caches=folder)


class ToolchainCaches:
    """The caches of one system.

    Args:
        system: Where toolchains are, and the folder of their caches.

    Example:
        >>> from unsandbox.sandbox import load_languages
        >>> ToolchainCaches(System()).place(load_languages()["go"]) is None
        True
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._seen: dict[str, tuple[float, str | None]] = {}
        self._tried: set[str] = set()
        self._making: asyncio.Task[None] | None = None

    def place(self, language: Language) -> str | None:
        """Return the path of a language's cache in sandboxes; None if there is none."""
        if language.cache is None or self._system.caches is None:
            return None
        now = time.monotonic()
        until, place = self._seen.get(language.name, (0.0, None))
        if now >= until:
            folder = self._system.caches / self.folder_name(language)
            place = f"{CACHES}/{folder.name}" if folder.is_dir() else None
            if place is not None and language.name not in self._seen:
                with contextlib.suppress(OSError):
                    os.utime(folder)
            self._seen[language.name] = now + _BELIEVED_S, place
        return place

    def place_or_make(self, language: Language, backend: Starts) -> str | None:
        """Return the path of a language's cache; if there is none, start to build it, one cache at a time."""
        place = self.place(language)
        wanted = place is None and language.cache is not None and self._system.caches is not None
        if wanted and self._making is None and language.name not in self._tried:
            self._tried.add(language.name)
            self._making = asyncio.create_task(self._make_beside(language, backend))
        return place

    async def _make_beside(self, language: Language, backend: Starts) -> None:
        try:
            await self.make(language, backend)
        except (SandboxError, OSError) as error:
            logger.warning("no cache for %s: %s", language.name, error)
        finally:
            self._making = None

    async def make(self, language: Language, backend: Starts) -> None:
        """Build the cache of a language if it does not exist.

        Raises:
            SandboxError: It could not be built.
            OSError: It could not be stored.
        """
        if language.cache is None or self._system.caches is None or self.place(language) is not None:
            return
        outcome = await (await backend.start(_filling(language))).wait()
        made = [artifact.data for artifact in outcome.artifacts if artifact.filename == Path(_ARCHIVE).name]
        if outcome.exit_code != 0 or not made:
            said = outcome.stderr.data.decode("utf-8", "replace").strip()[-500:]
            raise SandboxError(f"its cache could not be built ({outcome.reason}): {said}")
        await asyncio.to_thread(self._store, language, made[0])
        self._seen.pop(language.name, None)

    async def close(self) -> None:
        """Cancel the current build."""
        if (task := self._making) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def folder_name(self, language: Language) -> str:
        """Return the name of a cache, which depends on the toolchain and the recipe."""
        parts = [language.name, platform.machine(), repr(language.cache), str(self._system.root)]
        for name in (language.executable, *language.needs):
            patterns = [name] if "/" in name else [f"/usr/local/bin/{name}", f"/usr/bin/{name}"]
            for path in self._system.existing(patterns):
                status = os.stat(self._system.path(path))  # noqa: PTH116
                parts.append(f"{path} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
        return f"{language.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"

    def _store(self, language: Language, archive: bytes | Content) -> None:
        assert self._system.caches is not None  # noqa: S101 - asked before
        target = self._system.caches / self.folder_name(language)
        half = Path(tempfile.mkdtemp(prefix=".", dir=self._system.caches))
        try:
            _unpack(archive, half)
            half.chmod(0o755)
            with contextlib.suppress(FileExistsError):
                half.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
        self._drop_unused()

    def _drop_unused(self) -> None:
        assert self._system.caches is not None  # noqa: S101
        for folder in self._system.caches.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > _UNUSED_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _filling(language: Language) -> SandboxSpec:
    """Return the job that fills a language's cache and leaves it as an archive."""
    assert language.cache is not None  # noqa: S101
    spec = language.build_spec(language.cache.program, limits=_LIMITS, return_artifacts=True)
    source = spec.files[0]
    values = {"src": source.path, "cache": _PLACE, **limit_values(_LIMITS)}
    prepare = fill(language.cache.prepare, values, {})
    variables = {name: fill_text(value, values) for name, value in language.cache.env.items()}
    return dataclasses.replace(
        spec,
        run=["sh", "-c", _FILL, "sh", *prepare],
        compile=None,
        compiled=None,
        files=[SandboxFile(source.path, source.data)],
        env={**spec.env, **variables, "CACHE": _PLACE},
        artifact_paths=(),
    )


def _make_folders(folder: Path) -> None:
    for parent in (*reversed(folder.parents), folder):
        if not parent.exists():
            parent.mkdir()
            parent.chmod(0o755)


def _unpack(archive: bytes | Content, folder: Path) -> None:
    """Unpack the regular files and folders of a cache, which has no other entries."""
    with tarfile.open(fileobj=io.BufferedReader(ChunkReader(chunks_of(archive))), mode="r|*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise OSError(f"a cache must not contain {member.name!r}")
            target = folder / path
            if member.isdir():
                target.mkdir(mode=0o755, exist_ok=True)
                target.chmod(0o755)
            elif (content := tar.extractfile(member) if member.isreg() else None) is not None:
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                target.chmod(0o644)
