"""What both clients share and neither waits in: deadlines, the making of requests, caches, result types."""
