"""The zygote: run by the sandbox system's Python (3.9 or newer), imports nothing of unsandbox."""
