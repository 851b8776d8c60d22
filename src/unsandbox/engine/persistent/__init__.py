"""Code that sessions and services share."""
