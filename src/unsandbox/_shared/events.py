"""The events of a streamed job: pieces of output, then one result."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal

from unsandbox.protocol.models import Job

StreamName = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """A piece of the program's output.

    Attributes:
        stream: `stdout` or `stderr`.
        data: The bytes.
        text: The bytes as text. A character that is split between pieces is part of the later one, so the
            joined texts of a stream are its text. Bytes that are not UTF-8 are replaced.
    """

    stream: StreamName
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """The last event: the finished job with its whole output.

    Attributes:
        job: The job.
    """

    job: Job


Event = OutputEvent | ResultEvent


class Decoder:
    """Makes events of bytes; remembers the character that a piece may have cut."""

    def __init__(self) -> None:
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }

    def event(self, stream: StreamName, data: bytes) -> OutputEvent:
        """Return the event of a piece."""
        return OutputEvent(stream, data, self._decoders[stream].decode(data))

    def rests(self) -> list[OutputEvent]:
        """Return the text of incomplete characters at the end."""
        rests = [(name, decoder.decode(b"", final=True)) for name, decoder in self._decoders.items()]
        return [OutputEvent(name, b"", text) for name, text in rests if text]  # type: ignore[arg-type]
