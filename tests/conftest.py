"""For all tests."""

# Imported now and not when pytest writes its summary: CPython 3.11 can fail there ("AST constructor recursion
# depth mismatch") when a cold assertion-rewrite cache meets the garbage collector.
import hypothesis  # noqa: F401
