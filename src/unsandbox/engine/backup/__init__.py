"""Copies of a data folder: made while a server runs, verified before they are restored."""
