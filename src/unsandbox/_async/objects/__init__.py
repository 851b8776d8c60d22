"""Objects that the client returns: sessions, services, streams, maps."""
