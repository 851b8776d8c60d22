"""The one place that holds the version; the build and the changelog check read it."""

__version__ = "0.1.0"
