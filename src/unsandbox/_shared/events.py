"""What a stream of a running job yields: pieces of output, then the result, once."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal

from unsandbox.protocol.models import Job

StreamName = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """A piece of output, as the program wrote it.

    Attributes:
        stream: `stdout` or `stderr`.
        data: The bytes.
        text: The same as text. A character that was cut comes with the piece that makes it whole, so the texts
            of one stream, joined, are its text; bytes that are not UTF-8 are replaced.
    """

    stream: StreamName
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """The last event: the job as it ended, with all of its output.

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
        """Return what is left of characters that were never finished."""
        rests = [(name, decoder.decode(b"", final=True)) for name, decoder in self._decoders.items()]
        return [OutputEvent(name, b"", text) for name, text in rests if text]  # type: ignore[arg-type]
