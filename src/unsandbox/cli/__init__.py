"""The command line `un`."""
