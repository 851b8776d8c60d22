"""The installed versions of a language, and the programs of one version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from unsandbox.sandbox.errors import InvalidSpecError
from unsandbox.sandbox.system import System

if TYPE_CHECKING:
    from unsandbox.sandbox.languages.table import Language

_PLACE = "{version}"
_NUMBER = r"(\d++(?>(?:\.\d++)*))"
_BIN = ("/usr/local/bin/", "/usr/bin/")


def installed_versions(language: Language, system: System) -> dict[str, str]:
    """Return the path of each version's program, or the folder of its programs; the newest version first.

    Args:
        language: The language; `languages.toml` explains its field `versions`.
        system: The system in which it is installed.
    """
    if not language.versions:
        return {}
    pattern = language.versions
    shown = [pattern] if pattern.startswith("/") else [f"{folder}{pattern}" for folder in _BIN]
    found: dict[str, str] = {}
    for path in shown:
        form = re.escape(path).replace(re.escape(_PLACE), _NUMBER).replace(r"\*", "[^/]*+")
        for place in system.existing([path.rstrip("/").replace(_PLACE, "[0-9]*")]):
            if match := re.fullmatch(form.rstrip("/"), place):
                found.setdefault(match[1], f"{place}/" if path.endswith("/") else place)
    # `python3` leads to `python3.11`, and `java-1.17.0` to `java-17`.
    targets = {version: system.path(place).resolve() for version, place in found.items()}
    own = {version for version, place in found.items() if not system.path(place.rstrip("/")).is_symlink()}
    real = {targets[version] for version in own}
    found = {
        version: place for version, place in found.items() if version in own or targets[version] not in real
    }
    return dict(sorted(found.items(), key=lambda item: _as_numbers(item[0]), reverse=True))


def programs_of(language: Language, version: str, system: System) -> Mapping[str, str]:
    """Return the programs of a version that replace the usual ones; empty for the usual version.

    Args:
        language: The language.
        version: Its version, or the beginning of one: `3` is the newest 3.x.
        system: Where it is installed.

    Raises:
        InvalidSpecError: The version is not installed, or only one version is.
    """
    found = installed_versions(language, system)
    place = next((path for name, path in found.items() if f"{name}.".startswith(f"{version}.")), None)
    if place is None:
        raise InvalidSpecError(
            f"version: {language.name} {version} is not installed; {_there(language, found)}"
        )
    if not place.endswith("/"):
        usual = next(
            (path for path in system.existing(f"{folder}{language.executable}" for folder in _BIN)), None
        )
        same = usual is not None and system.path(usual).resolve() == system.path(place).resolve()
        return {} if same else {language.executable: place}
    names = [name for name in (language.executable, *language.needs) if system.path(place + name).exists()]
    return {name: place + name for name in names}


def _there(language: Language, found: Mapping[str, str]) -> str:
    if not found:
        return f"the only {language.name} here is the usual one; leave version out"
    return f"installed {'is' if len(found) == 1 else 'are'} {', '.join(found)}"


def _as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
