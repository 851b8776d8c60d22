"""Services: long-running programs with a name."""
