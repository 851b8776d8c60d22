"""Adapters that let agent frameworks use sessions as their sandboxes, one module for each framework.

Each module is named after its framework, imports it, and needs an extra that installs it.
`docs/frameworks.md` shows how to use them.
"""
