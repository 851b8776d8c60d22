"""Jobs: accepted, queued, run, recorded."""
