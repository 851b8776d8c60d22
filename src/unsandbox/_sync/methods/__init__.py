# Generated from src/unsandbox/_async/methods/__init__.py by scripts/unasync.py; change that one.
"""The methods of the client, by kind of object."""
