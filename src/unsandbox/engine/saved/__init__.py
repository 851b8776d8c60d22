"""Snapshots and images."""
