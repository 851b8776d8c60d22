"""Toolchains in a folder of the engine's own, so that sandboxes need nothing of the host's `/usr`."""

from unsandbox.sandbox.languages.toolchains.install import Estimate, Installer, Progress, Report

__all__ = ["Estimate", "Installer", "Progress", "Report"]
