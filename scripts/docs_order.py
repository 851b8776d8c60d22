"""Order the methods of classes in the reference: own methods first, then those of each base class, in order.

The site's generator sorts by line number, which mixes the methods of base classes in different files. This
extension of griffe gives each class the list that the option `members_order: __all__` follows.
"""

from __future__ import annotations

from typing import Any

import griffe


class MethodOrder(griffe.Extension):  # type: ignore[misc,unused-ignore]
    """Lists the members of classes that inherit in the order of their method resolution."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Note the order; runs when all classes are known."""
        if not cls.bases:
            return
        try:
            classes = [cls, *cls.mro()]
        except ValueError:
            # A base class is outside of this project.
            return
        names = [name for each in classes for name in sorted(each.members, key=_line(each))]
        cls.exports = list(dict.fromkeys(names))


def _line(cls: griffe.Class) -> Any:
    return lambda name: cls.members[name].lineno or 0
