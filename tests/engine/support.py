"""What several tests of the engine need."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which takes root")
