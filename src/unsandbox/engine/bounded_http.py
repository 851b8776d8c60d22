"""Answers of HTTP servers that are not trusted, within bounds: for aiohttp's client."""

from __future__ import annotations

from aiohttp import ClientError
from aiohttp.client_proto import ResponseHandler

_MAX_HEAD = 512 * 1024
_MAX_INTERIM = 16
"""Interim answers (1xx) to one request. A server may send any number; none of them is passed on."""
_SLICE = 4096
_INTERIM = range(100, 200)
_SWITCHING = 101


class BadAnswerError(ClientError):
    """A server answers with more than the head of an answer may be."""


class BoundedHandler(ResponseHandler):
    """Reads the head of an answer in small pieces, and gives up on one without an end.

    aiohttp takes all that has come at once, and goes through interim answers without a pause.
    """

    _head_bytes = 0
    _fruitless = 0
    """Bytes since the body has grown: extensions of chunks, and trailers."""
    _interim = 0
    _has_head = False

    def data_received(self, data: bytes) -> None:
        """Receive bytes."""
        start = 0
        while not self._has_head and start < len(data) and not self._should_close:
            piece = data[start : start + _SLICE]
            start += len(piece)
            self._head_bytes += len(piece)
            seen = len(self._buffer)
            super().data_received(piece)
            codes = [message.code for (message, _), _ in list(self._buffer)[seen:]]
            self._interim += sum(code in _INTERIM and code != _SWITCHING for code in codes)
            self._has_head = any(code not in _INTERIM or code == _SWITCHING for code in codes)
            if not self._has_head and (self._head_bytes > _MAX_HEAD or self._interim > _MAX_INTERIM):
                self._give_up("the head of the answer has no end")
                return
        if start < len(data):
            self._take_body(data[start:] if start else data)

    def _take_body(self, data: bytes) -> None:
        body = self._payload
        before = 0 if body is None else body.total_bytes
        super().data_received(data)
        if body is None or body.is_eof() or body.total_bytes > before:
            self._fruitless = 0
        elif not self._reading_paused:
            self._fruitless += len(data)
            if self._fruitless > _MAX_HEAD:
                self._give_up("the trailers of the answer have no end")

    def _give_up(self, reason: str) -> None:
        self.set_exception(BadAnswerError(reason))
        if self._payload is not None:
            self._payload.set_exception(BadAnswerError(reason))
        if self.transport is not None:
            self.transport.abort()
