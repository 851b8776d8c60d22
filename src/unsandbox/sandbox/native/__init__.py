"""Machine code that runs inside sandboxes."""
