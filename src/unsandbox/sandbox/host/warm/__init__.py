"""Warm sandboxes: prepared before their job comes, one job each."""
