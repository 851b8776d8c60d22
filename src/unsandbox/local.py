"""The embedded engine: the same server inside this process, on a loopback port, with random keys.

It is started once per process, in a thread with a separate event loop, and ends with the process. At a normal
exit everything is stopped in order. If the process is killed, the kernel ends the sandboxes and the launcher
cleans up. A forked child starts its own engine.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unsandbox.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from unsandbox.engine import Engine, EngineConfig
    from unsandbox.server import Server

logger = logging.getLogger("unsandbox.local")

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Address and key pair of the embedded engine.

    Attributes:
        url: Base URL on the loopback interface.
        public_key: Random public key for this process.
        secret_key: Random secret key for this process.
    """

    url: str
    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"LocalServer({self.url!r})"


_lock = threading.Lock()
_running: _EngineThread | None = None


def ensure_started(config: EngineConfig | None = None) -> LocalServer:
    """Start the embedded engine if it is not running, and return its address.

    Safe to call from any thread. The first call takes a few hundred milliseconds; in async code, call it in a
    thread.

    Args:
        config: The engine's configuration. Only the first call in a process can set it.

    Raises:
        EngineError: The engine cannot run on this machine, or runs with another configuration. The message
            has the remedy.

    Example:
        >>> ensure_started().url.startswith("http://127.0.0.1:")
        True
    """
    global _running
    with _lock:
        if _running is None:
            if sys.platform != "linux":
                raise EngineError(
                    "the embedded engine runs on Linux only; set UNSANDBOX_API_BASE to the URL of a server on "
                    "Linux (un serve) or of the hosted service"
                )
            _running = _EngineThread(config)
        elif config is not None and config != _running.config:
            raise EngineError(
                "the embedded engine of this process already runs with another configuration; "
                "pass the configuration to the first call"
            )
        return _running.address


def stop() -> None:
    """Stop the embedded engine if it runs. A later `ensure_started` starts a new one."""
    global _running
    with _lock:
        if _running is not None:
            _running.stop()
            _running = None


class _EngineThread:
    """The thread, its event loop, and the server in it."""

    def __init__(self, config: EngineConfig | None) -> None:
        # Imported here: programs that use a remote server need not have the extra installed.
        try:
            from unsandbox.engine import Engine, EngineConfig
            from unsandbox.engine.accounts.keys import FixedKeys, KeyPair
            from unsandbox.server import Server, ServerConfig
        except ImportError as error:
            raise EngineError(
                f"the embedded engine needs the 'local' extra ({error.name} is missing): "
                "pip install 'unsandbox[local]'"
            ) from error
        self.config = config or EngineConfig()
        self._grace_s = self.config.stop_grace_s
        pair = KeyPair.generate()
        self._engine: Engine = Engine(self.config)
        self._server: Server = Server(self._engine, FixedKeys(pair), ServerConfig(port=0))
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="unsandbox-engine", daemon=True)
        self._thread.start()
        try:
            self._call(self._start()).result(_START_TIMEOUT_S)
        except BaseException as error:
            self._end_thread()
            if isinstance(error, Exception) and not isinstance(error, EngineError):
                raise EngineError(f"the embedded engine cannot start: {error}") from error
            raise
        self.address = LocalServer(self._server.url, pair.public_key, pair.secret_key)

    def stop(self) -> None:
        """Stop server and engine, and end the thread."""
        try:
            self._call(self._stop()).result(self._grace_s + 20.0)
        finally:
            self._end_thread()

    def descriptors(self) -> list[int]:
        """Return the descriptors that a forked child must close."""
        return self._server.sockets()

    def abandon_jobs(self) -> None:
        """Make a following `stop` end running jobs at once instead of waiting for them."""
        self._grace_s = 0.0

    async def _start(self) -> None:
        await self._engine.start()
        try:
            await self._server.start()
        except BaseException:
            await self._engine.stop()
            raise

    async def _stop(self) -> None:
        await self._server.stop_listening()
        await self._engine.stop(self._grace_s)
        await self._server.stop()

    def _call(self, work: Coroutine[Any, Any, None]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            # No shutdown_default_executor: it starts a thread, which is forbidden while the interpreter exits.
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _stop_at_exit() -> None:
    if _running is not None:
        # Nobody will read the results of running jobs.
        _running.abandon_jobs()
        stop()


def _after_fork_in_child() -> None:
    """Forget the parent's engine and close its descriptors.

    Otherwise a child that outlives its parent would keep the parent's port. The numbers are replaced by
    /dev/null, because objects of the parent's loop still refer to them.
    """
    global _running, _lock
    _lock = threading.Lock()
    if _running is None:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _running.descriptors():
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
    except OSError:
        logger.warning("a forked child could not close the descriptors of its parent's engine", exc_info=True)
    _orphans.append(_running)
    _running = None


_orphans: list[_EngineThread] = []
"""Engines of the parent, which a forked child must not finalise: their loop and sockets are the parent's."""

atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
