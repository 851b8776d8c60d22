"""Copies what the program of a service writes into its log."""

from __future__ import annotations

import asyncio
import logging
import os

from unsandbox.engine.services.log import ServiceLog
from unsandbox.engine.token_bucket import TokenBucket
from unsandbox.sandbox.host.descriptors import readable
from unsandbox.sandbox.spec import MIB

logger = logging.getLogger("unsandbox.engine.services.services")

_READ_BYTES = 64 * 1024
_BYTES_PER_S = 4 * MIB
_BURST_BYTES = 16 * MIB
_LEAST_BYTES = 4096
"""What reading counts as at least: a program that writes byte by byte must not keep the server busy."""
_AGAIN_S = 1.0


async def copy_output(descriptor: int | None, log: ServiceLog) -> None:
    """Copy until the last writer closes the pipe.

    A program that writes without end waits in its own writing: no more is read than the disk takes, and not
    more than 4 MiB a second in the long run.

    Args:
        descriptor: The reading end; None for a program without output.
        log: Where to.
    """
    pace = TokenBucket(_BURST_BYTES, _BYTES_PER_S)
    while descriptor is not None:
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            await readable(descriptor)
            continue
        except OSError:
            return
        if not data:
            return
        try:
            await log.append(data)
        except OSError as error:
            # The program must continue even if its output cannot be stored.
            logger.warning("output of a service was lost: %s", error.strerror)
            await asyncio.sleep(_AGAIN_S)
        pace.take(max(len(data), _LEAST_BYTES))
        if (wait_s := pace.wait_s(0)) > 0:
            await asyncio.sleep(wait_s)
