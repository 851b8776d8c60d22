"""Programs of ours that run inside persistent sandboxes, as the sandbox's user."""
