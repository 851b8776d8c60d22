"""Answers that stay open in both directions."""
