"""Keys, quotas, audit and idempotency."""
