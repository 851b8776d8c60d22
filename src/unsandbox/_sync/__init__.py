# Generated from src/unsandbox/_async/__init__.py by scripts/unasync.py: change that one, then run the script.
"""The sync client, generated."""
