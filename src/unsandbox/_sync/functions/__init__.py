# Generated from src/unsandbox/_async/functions/__init__.py by scripts/unasync.py; change that one.
"""The functions of `un`, grouped by object. Their dependencies are imported at the first call."""
