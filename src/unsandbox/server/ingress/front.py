"""Accepts connections, and tells from the first bytes of each whether it is for the API or for a service.

The kernel keeps the bytes that are looked at (`MSG_PEEK`), so every connection is read from its beginning
later, also with TLS. A connection that tells nothing goes to the API. `handoff` corrects what turns out
otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
from collections.abc import Callable

from unsandbox.server.hosts import host_name
from unsandbox.server.ingress.connections import Connections, is_loopback
from unsandbox.server.ingress.hello import server_name_of

logger = logging.getLogger("unsandbox.server")

_PEEKED = 16 * 1024
"""Bytes of a connection that are looked at, at most."""
_AT_ONCE = 64
_PAUSE_S = 0.2
_RETRY_S = 0.01
_PARKED_S = 2.0
"""How long a connection from this machine waits for room before it is refused."""
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_STALLED_MS = 300_000
"""A client that takes nothing of what is sent to it for so long is disconnected by the kernel."""
_HOST = re.compile(rb"\n[Hh][Oo][Ss][Tt]:[ \t]*+([^\r\n]*+)\r?+\n")
_HEAD_ENDS = re.compile(rb"\n\r?\n")


class Front:
    """Accepts connections of one listening socket.

    Args:
        listener: Bound and listening; belongs to this object.
        is_service: Whether a host name, lower-case and without a port, is for services.
        to_api: Takes a connection for the API, and calls what it gets when the connection has ended.
        to_ingress: Takes a connection for a service.
        connections: Where they are counted.
        tls: Whether connections begin with a TLS handshake.
        patience_s: How long a client may take to say what it wants.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        is_service: Callable[[str], bool],
        to_api: Callable[[socket.socket, Callable[[], None]], None],
        to_ingress: Callable[[socket.socket], None],
        connections: Connections,
        tls: bool,
        patience_s: float,
    ) -> None:
        self._listener = listener
        self._is_service = is_service
        self._to_api = to_api
        self._to_ingress = to_ingress
        self._connections = connections
        self._tls = tls
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._waiting: set[_Arrival] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._parked: socket.socket | None = None
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        self._loop.add_reader(listener.fileno(), self._accept)

    def fileno(self) -> int:
        """Return the descriptor that listens."""
        return self._listener.fileno()

    def close(self) -> None:
        """Accept no more; connections that have said nothing yet are closed."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        if self._parked is not None:
            self._parked.close()
            self._parked = None
        for arrival in list(self._waiting):
            arrival.end()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, place = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    logger.warning("no connection can be accepted: %s", error.strerror)
                    self._loop.remove_reader(self._listener.fileno())
                    self._pause = self._loop.call_later(_PAUSE_S, self._go_on)
                    return
                continue  # It was closed before it was accepted.
            address = str(place[0])
            if self._connections.has_room(address):
                self._arrive(sock, address)
            elif is_loopback(address):
                # Many calls of one program, or a proxy: those before them are about to be signed.
                self._loop.remove_reader(self._listener.fileno())
                self._parked = sock
                self._try_again(address, self._loop.time() + _PARKED_S)
                return
            else:
                self._connections.add(address)  # Counts it as refused.
                sock.close()

    def _arrive(self, sock: socket.socket, address: str) -> None:
        if not self._connections.add(address):
            sock.close()
            return
        sock.setblocking(False)
        arrival = _Arrival(self._loop, sock, address)
        self._waiting.add(arrival)
        arrival.watch(self._look, self._drop, self._patience_s)

    def _try_again(self, address: str, until: float) -> None:
        if self._parked is None:
            return
        if not self._connections.has_room(address) and self._loop.time() < until:
            self._pause = self._loop.call_later(_RETRY_S, self._try_again, address, until)
            return
        sock, self._parked = self._parked, None
        self._arrive(sock, address)
        self._go_on()

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _look(self, arrival: _Arrival) -> None:
        try:
            data = arrival.sock.recv(_PEEKED, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(arrival)
            return
        if not data:
            self._drop(arrival)
            return
        name = server_name_of(data) if self._tls else host_of(data)
        if name is None and len(data) < _PEEKED and len(data) > arrival.seen:
            arrival.wait_for_more(len(data))
            return
        self._waiting.discard(arrival)
        arrival.unwatch()
        known = host_name(name) if name else None
        if known is not None and self._is_service(known):
            self._connections.remove(arrival.address)
            self._to_ingress(arrival.sock)
        else:
            self._to_api(arrival.sock, lambda: self._connections.remove(arrival.address))

    def _drop(self, arrival: _Arrival) -> None:
        self._waiting.discard(arrival)
        self._connections.remove(arrival.address)
        arrival.end()


class _Arrival:
    """A connection that has not said yet what it is for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, address: str) -> None:
        self.sock = sock
        self.address = address
        self.seen = 0
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def watch(
        self, on_data: Callable[[_Arrival], None], on_time_up: Callable[[_Arrival], None], patience_s: float
    ) -> None:
        self._loop.add_reader(self.sock.fileno(), on_data, self)
        self._timer = self._loop.call_later(patience_s, on_time_up, self)

    def wait_for_more(self, seen: int) -> None:
        # Else the loop would be told of the same bytes over and over again.
        self.seen = seen
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    def unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self.sock.fileno())
        if self.seen:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def end(self) -> None:
        self.unwatch()
        # A socket that is closed with bytes unread resets the connection.
        with contextlib.suppress(OSError):
            self.sock.recv(_PEEKED)
        self.sock.close()


def host_of(data: bytes) -> str | None:
    r"""Return the `Host` of the request that a connection begins with; empty when it has none.

    Returns:
        None while that is not known yet.

    Example:
        >>> host_of(b"GET / HTTP/1.1\r\nHost: a.b:80\r\n"), host_of(b"GET / HTTP/1.1\r\nHost: a.")
        ('a.b:80', None)
    """
    end = _HEAD_ENDS.search(data)
    found = _HOST.search(data, 0, end.end() if end else len(data))
    if found is not None:
        return found[1].rstrip(b" \t").decode("latin-1")
    return "" if end else None
