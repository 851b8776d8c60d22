"""Results as a model reads them: text of a bounded length, and pictures."""

from __future__ import annotations

import contextlib

from mcp.server.mcpserver import Image

from unsandbox._async.objects.session import AsyncLiveSession
from unsandbox.errors import UnsandboxError
from unsandbox.integrations.mcp.sandboxes import McpSession
from unsandbox.protocol.models import Artifact

Content = str | Image

MOST_CHARACTERS = 32_000
"""Characters of output in one answer: about 8,000 tokens."""
_FOLDERS = ("/work", "/tmp/artifacts")  # noqa: S108 - inside the sandbox
_HEAD = MOST_CHARACTERS * 3 // 4
_MOST_LOOKED_AT = 1000
_MOST_IMAGES = 8
_IMAGE_BYTES = 3 << 20
_FORMATS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))
_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


def image_format(data: bytes) -> str | None:
    """Return the format of a picture that models accept; None for other bytes.

    Args:
        data: The bytes of a file, or its beginning.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _FORMATS if data.startswith(magic)), None)


def as_image(data: bytes) -> Image | None:
    """Return the bytes of a file as a picture; None if they are not a picture that fits in an answer.

    Args:
        data: The bytes.
    """
    name = image_format(data)
    return Image(data=data, format=name) if name and len(data) <= _IMAGE_BYTES else None


def artifact_images(artifacts: list[Artifact]) -> list[Content]:
    """Return the pictures among the artifacts of a job.

    Args:
        artifacts: The artifacts.
    """
    images = [image for artifact in artifacts if (image := as_image(artifact.data)) is not None]
    return list(images[:_MOST_IMAGES])


async def new_images(mcp: McpSession, session: AsyncLiveSession) -> list[Content]:
    """Return pictures that were written to the working or the artifact folder since the last call.

    Args:
        mcp: Remembers the pictures that the client has got.
        session: The sandbox.
    """
    found: list[Content] = []
    for folder in _FOLDERS:
        # The folder may be missing, or replaced by something else.
        with contextlib.suppress(UnsandboxError):
            for entry in await session.files.glob("*", folder, limit=_MOST_LOOKED_AT):
                path, version = entry.path or "", entry.version or ""
                if not path.lower().endswith(_SUFFIXES) or mcp.seen_images.get(path) == version:
                    continue
                mcp.seen_images[path] = version
                if len(found) < _MOST_IMAGES and (entry.size or 0) <= _IMAGE_BYTES:
                    image = as_image(await session.files.read(path))
                    if image is not None:
                        found += [f"[{path}]", image]
    return found


async def bounded(mcp: McpSession, session: AsyncLiveSession | None, text: str) -> str:
    """Return a text, cut in the middle if it is long; the whole text is then stored in the sandbox.

    Args:
        mcp: Counts the stored outputs.
        session: The sandbox; None for a job, whose output is lost.
        text: The text.
    """
    if len(text) <= MOST_CHARACTERS:
        return text
    left_out = len(text) - MOST_CHARACTERS
    rest = "print less, or write to a file"
    if session is not None:
        mcp.outputs += 1
        path = f"/tmp/output-{mcp.outputs}.txt"  # noqa: S108 - a path inside the sandbox
        try:
            await session.files.write(path, text)
            rest = (
                f"the whole output is in {path}: call read_file with an offset, or search it with run_command"
            )
        except UnsandboxError:
            pass  # Its disk may be full.
    note = f"\n[... {left_out} of {len(text)} characters are left out here; {rest} ...]\n"
    return text[:_HEAD] + note + text[_HEAD - MOST_CHARACTERS :]


def describe(stdout: str, stderr: str, exit_code: int | None, reason: str | None = None) -> str:
    """Return the output of a program as one text.

    Args:
        stdout: Standard output.
        stderr: Standard error.
        exit_code: Exit code.
        reason: Why it did not end by itself.
    """
    parts = [stdout.rstrip("\n")] if stdout else []
    if stderr:
        parts.append(f"[stderr]\n{stderr.rstrip()}")
    if reason:
        parts.append(f"[ended: {reason}]")
    elif exit_code:
        parts.append(f"[exit code {exit_code}]")
    return "\n".join(parts) or "[no output]"
