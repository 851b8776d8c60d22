"""The gVisor backend."""
