"""The bubblewrap backend."""
