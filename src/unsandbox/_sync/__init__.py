# Generated from src/unsandbox/_async/__init__.py by scripts/unasync.py; change that one.
"""The sync client, generated."""
