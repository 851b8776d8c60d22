"""Toolchains in a separate folder, so that sandboxes do not need the host's `/usr`."""

from unsandbox.sandbox.languages.toolchains.install import Estimate, Installer, Progress, Report

__all__ = ["Estimate", "Installer", "Progress", "Report"]
