"""Build hook: the README with absolute links, and the project URLs, derived from the repository's address.

The address stands once, in `[tool.hatch.metadata.hooks.custom]`. While it is empty, links stay relative.
"""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

HOMEPAGE = "https://unsandbox.com"
_LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?://|mailto:|#)([^)\s]+)\)")


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown with its relative links pointing into the repository.

    Example:
        >>> absolute_links("![a](b.svg) [c](d.md#e) [f](https://g)", "https://forge/o/n", "v1")
        '![a](https://forge/o/n/raw/v1/b.svg) [c](https://forge/o/n/blob/v1/d.md#e) [f](https://g)'
    """

    def replace(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}{link[2]}({repository}/{kind}/{tag}/{link[3]})"

    return _LINK.sub(replace, text)


def urls(repository: str) -> dict[str, str]:
    """Return the project's URLs by label."""
    if not repository:
        return {"Homepage": HOMEPAGE}
    return {
        "Homepage": HOMEPAGE,
        "Source": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        "Security": f"{repository}/security/policy",
    }


class ProjectMetadata(MetadataHookInterface):
    """Fills in the fields `readme` and `urls` of the project."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set the fields."""
        top = Path(self.root)
        repository = self.config["repository"]
        text = (top / "README.md").read_text(encoding="utf-8")
        if repository:
            source = (top / "src/unsandbox/_version.py").read_text(encoding="utf-8")
            version = re.search(r'__version__ = "([^"]+)"', source)
            assert version is not None
            text = absolute_links(text, repository, f"v{version[1]}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(repository)
