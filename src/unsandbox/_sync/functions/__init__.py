# Generated from src/unsandbox/_async/functions/__init__.py by scripts/unasync.py; change that one.
"""The functions of `un`, by what they are about. They cost little until they are called."""
