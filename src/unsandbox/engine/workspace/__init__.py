"""Processes and files of sessions."""
