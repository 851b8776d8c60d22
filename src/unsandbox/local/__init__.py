"""The embedded engine: the same server inside this process, on a loopback port, with random keys.

It is started once per process, in a thread with its own event loop, and ends with the process: at a normal
exit everything is stopped in order; when the process is killed, the kernel ends the sandboxes and the launcher
process removes the rest. A forked child starts its own.

Where no thread can run it, a child process does: in a program that gevent or eventlet has patched, and at the
end of the interpreter, when threads outlive the main thread or a function of `atexit` runs code.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from unsandbox._compat.descriptors import open_standard_descriptors
from unsandbox.errors import EngineError
from unsandbox.local.address import LocalServer
from unsandbox.local.child import EngineProcess

if TYPE_CHECKING:
    from unsandbox.engine import EngineConfig
    from unsandbox.local.thread import EngineThread

__all__ = ["LocalServer", "e2b_url", "ensure_started", "stop"]

logger = logging.getLogger("unsandbox.local")

_lock = threading.Lock()
_running: EngineThread | EngineProcess | None = None


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
            open_standard_descriptors()
            _running = _start(config)
        elif config is not None and config != _running.config:
            raise EngineError(
                "the embedded engine of this process already runs with another configuration; "
                "pass the configuration to the first call"
            )
        return _running.address


def e2b_url() -> str:
    """Return the URL at which the embedded engine serves E2B's clients; the first call opens the port.

    Raises:
        EngineError: The engine does not run, or runs in a child process.
    """
    with _lock:
        if _running is None:
            raise EngineError("the embedded engine does not run; call ensure_started first")
        return _running.e2b_url()


def stop() -> None:
    """Stop the embedded engine if it runs. A later `ensure_started` starts a new one."""
    global _running
    with _lock:
        if _running is not None:
            _running.stop()
            _running = None


def _start(config: EngineConfig | None) -> EngineThread | EngineProcess:
    if _threads_are_unusable():
        return EngineProcess(config)
    try:
        # Imported here, because it imports modules that cannot be imported after the main thread has ended.
        from unsandbox.local.thread import EngineThread

        return EngineThread(config)
    except (EngineError, RuntimeError):
        # The main thread may have ended meanwhile.
        if not _threads_are_unusable():
            raise
        return EngineProcess(config)


def _threads_are_unusable() -> bool:
    """Return whether an event loop in a thread would block everything, or could not start threads."""
    if not threading.main_thread().is_alive():
        return True
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("threading"))
        or (eventlet is not None and eventlet.is_monkey_patched("thread"))
    )


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


_orphans: list[EngineThread | EngineProcess] = []
"""Engines of the parent, which a forked child must not finalise: their loop and sockets are the parent's."""

atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
