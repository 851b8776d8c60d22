"""Adapters that let agent frameworks use sessions as their sandboxes, one module for each framework.

Each module is named after its framework, imports it, and needs the extra of the same name.
`docs/frameworks.md` shows how to use them.
"""
