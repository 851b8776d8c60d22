"""Code that both clients share and that does not wait: deadlines, request bodies, caches, result types."""
