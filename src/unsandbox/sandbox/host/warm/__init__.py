"""Warm sandboxes: prepared before their job arrives; each serves one job."""
