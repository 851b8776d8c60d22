"""The Python interpreter that further processes are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from unsandbox.errors import EngineError

__all__ = ["interpreter"]


def interpreter() -> str:
    """Return the path of this Python's interpreter, also where `sys.executable` is empty or another program.

    Raises:
        EngineError: No interpreter was found.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = [str(Path(prefix, "bin", version)) for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix)]
    for path in (sys.executable, *beside, getattr(sys, "_base_executable", "")):
        if path and "python" in Path(path).name.lower() and os.access(path, os.X_OK):
            return path
    raise EngineError(
        f"the engine needs a Python interpreter for its processes, and there is none: sys.executable is "
        f"{sys.executable!r}, and {beside[0]} is not there. Set sys.executable to the path of one"
    )
