"""Outbound networks of sandboxes, set up by the launcher."""
