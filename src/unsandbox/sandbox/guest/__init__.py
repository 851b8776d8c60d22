"""The engine's helper programs inside persistent sandboxes, which run as the sandbox's user."""
