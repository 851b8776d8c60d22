"""Code that the async client and its generated sync twin implement differently, under the same names."""
