"""The server's side of a sandbox: both backends build on it."""
