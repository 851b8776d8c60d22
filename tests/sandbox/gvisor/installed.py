"""Whether gVisor can be tested here."""

from __future__ import annotations

import pytest

from unsandbox.sandbox import SandboxUnavailable
from unsandbox.sandbox.gvisor import runsc


def installed() -> bool:
    try:
        runsc.find()
    except SandboxUnavailable:
        return False
    return True


needs_gvisor = pytest.mark.skipif(not installed(), reason="no usable runsc: un doctor --install-gvisor")
