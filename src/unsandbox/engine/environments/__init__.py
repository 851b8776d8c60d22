"""Environments: named, read-only sets of packages that sandboxes see at `/opt/env`."""
