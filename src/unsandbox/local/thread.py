"""The embedded engine in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from unsandbox.errors import EngineError
from unsandbox.local.address import LocalServer

if TYPE_CHECKING:
    from unsandbox.engine import Engine, EngineConfig
    from unsandbox.server import Server
    from unsandbox.server.e2b.listener import E2bListener

__all__ = ["EngineThread"]

T = TypeVar("T")

_START_TIMEOUT_S = 60.0


class EngineThread:
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
        self._e2b: E2bListener | None = None
        self._loop = _new_loop()
        self._loop.set_default_executor(_Executor())
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

    def e2b_url(self) -> str:
        """Return the URL for E2B's clients; the first call opens the port."""
        if self._e2b is None:
            from unsandbox.server.e2b.listener import E2bListener

            self._e2b = E2bListener(self._server, "127.0.0.1", 0)
            self._call(self._e2b.start()).result(_START_TIMEOUT_S)
        return self._e2b.url

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
        if self._e2b is not None:
            await self._e2b.stop()
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


class _Executor(ThreadPoolExecutor):
    """Works on while threads outlive the main thread, where the library's refuses work."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function in a thread."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[T] = Future()
            threading.Thread(target=_call, args=(future, fn, args, kwargs), daemon=True).start()
            return future


def _call(future: Future[T], fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - the caller's, as in the library
            future.set_exception(error)
        else:
            future.set_result(result)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
