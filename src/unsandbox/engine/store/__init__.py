"""Storage of records."""
