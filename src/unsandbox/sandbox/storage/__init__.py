"""Disks and archives of persistent sandboxes."""
