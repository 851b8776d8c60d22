"""The three standard descriptors, which a program may have been started without."""

from __future__ import annotations

import os
import sys

__all__ = ["open_standard_descriptors"]


def open_standard_descriptors() -> None:
    """Open `/dev/null` in the place of standard descriptors that are closed (`<&-`, `>&-`, `2>&-`).

    Otherwise the next file or socket takes the number: messages for standard error are then written into it,
    and libuv ends the process when it closes one.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            # Never closed: the descriptor is the process's.
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
