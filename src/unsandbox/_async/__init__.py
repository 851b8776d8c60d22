"""The async client: the source from which `scripts/unasync.py` generates the sync one."""
