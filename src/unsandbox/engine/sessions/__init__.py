"""Sessions: persistent sandboxes with a terminal."""
