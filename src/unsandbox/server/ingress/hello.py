"""The server name in the first message of a TLS connection (RFC 8446, 4.1.2; RFC 6066, 3)."""

from __future__ import annotations

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_RECORD_HEAD, _MESSAGE_HEAD = 5, 4
_VERSION_AND_RANDOM = 34


def server_name_of(data: bytes) -> str | None:
    """Return the server name that a client asks for; empty when it names none or does not speak TLS.

    Returns:
        None while the message is not whole.
    """
    message = bytearray()
    start = 0
    while True:
        head = data[start : start + _RECORD_HEAD]
        if head and head[0] != _HANDSHAKE:
            return ""
        if len(head) < _RECORD_HEAD:
            return None
        size = int.from_bytes(head[3:5], "big")
        message += data[start + _RECORD_HEAD : start + _RECORD_HEAD + size]
        start += _RECORD_HEAD + size
        if not size or (message and message[0] != _CLIENT_HELLO):
            return ""
        wanted = int.from_bytes(message[1:_MESSAGE_HEAD], "big") + _MESSAGE_HEAD
        if len(message) >= _MESSAGE_HEAD and len(message) >= wanted:
            return _name_in(_Fields(message[_MESSAGE_HEAD:wanted]))
        if start > len(data):
            return None


def _name_in(hello: _Fields) -> str:
    try:
        hello.take(_VERSION_AND_RANDOM)
        hello.sized(1)  # session id
        hello.sized(2)  # cipher suites
        hello.sized(1)  # compression
        extensions = _Fields(hello.sized(2))
        while extensions:
            kind, content = extensions.number(2), extensions.sized(2)
            if kind != _SERVER_NAME:
                continue
            names = _Fields(_Fields(content).sized(2))
            while names:
                form, name = names.number(1), names.sized(2)
                if form == _HOST_NAME:
                    return bytes(name).decode("latin-1")
    except ValueError:
        pass
    return ""


class _Fields:
    """Reads numbers, and byte strings that begin with their size."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: There are not so many.
        """
        end = self._at + size
        if end > len(self._data):
            raise ValueError("the message ends early")
        taken = bytes(self._data[self._at : end])
        self._at = end
        return taken

    def number(self, size: int) -> int:
        """Return the next number of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, size: int) -> bytes:
        """Return the bytes behind their size, which takes so many bytes."""
        return self.take(self.number(size))
