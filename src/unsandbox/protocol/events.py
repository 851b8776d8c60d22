"""The events of a running job, as `GET /jobs/{id}/events` sends them.

They are Server-Sent Events (HTML Living Standard, 9.2). Each `output` event has a piece of one stream and, as
its `id`, the cursor after it: the number of bytes of each stream that have been sent. A client that
reconnects with that cursor as `Last-Event-ID` gets the next byte and none twice, even if the connection broke
within a character. The last event is `result`, exactly once; a stream without it is incomplete.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from unsandbox.errors import InvalidResponseError
from unsandbox.protocol.models import WireModel

OUTPUT_EVENT = "output"
RESULT_EVENT = "result"
CURSOR_HEADER = "Last-Event-ID"
CURSOR_QUERY = "cursor"
STREAMS = ("stdout", "stderr")


class Cursor(NamedTuple):
    """How many bytes of each stream have been received.

    Example:
        >>> Cursor.parse("120-7"), str(Cursor(1, 2))
        (Cursor(stdout=120, stderr=7), '1-2')
    """

    stdout: int = 0
    stderr: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor.

        Raises:
            ValueError: It is not one.
        """
        stdout, dash, stderr = text.partition("-")
        if not (dash and stdout.isdecimal() and stderr.isdecimal() and text.isascii() and len(text) < 40):
            raise ValueError("a cursor must be two numbers, such as 120-7")
        return cls(int(stdout), int(stderr))

    def __str__(self) -> str:
        return f"{self.stdout}-{self.stderr}"


class OutputChunk(WireModel, frozen=True, kw_only=True):
    """A piece of output: as `text` where it is UTF-8 from its first byte to its last, else as `base64`."""

    stream: str
    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, stream: str, data: bytes) -> OutputChunk:
        r"""Make one.

        Example:
            >>> OutputChunk.of("stdout", b"hi").text, OutputChunk.of("stdout", b"\xff").base64
            ('hi', '/w==')
        """
        try:
            return cls(stream=stream, text=data.decode("utf-8"))
        except UnicodeDecodeError:
            return cls(stream=stream, base64=base64.b64encode(data).decode("ascii"))

    @property
    def data(self) -> bytes:
        """Its bytes.

        Raises:
            InvalidResponseError: The server sent invalid base64.
        """
        if self.base64 is None:
            return (self.text or "").encode("utf-8", "surrogateescape")
        try:
            return base64.b64decode(self.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidResponseError("the server's event contains invalid base64") from error
