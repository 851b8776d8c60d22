# Generated from src/unsandbox/_async/objects/__init__.py by scripts/unasync.py; change that one.
"""Objects that the client returns: sessions, services, streams, maps."""
