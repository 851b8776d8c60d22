"""For all tests."""

import os

# Imported now and not when pytest writes its summary: CPython 3.11 can fail there ("AST constructor recursion
# depth mismatch") when a cold assertion-rewrite cache meets the garbage collector.
import hypothesis  # noqa: F401

# Caches of toolchains are made beside the first jobs and outlive a run; tests of them have folders of their own.
os.environ.setdefault("UNSANDBOX_TOOLCHAIN_CACHE", "off")
