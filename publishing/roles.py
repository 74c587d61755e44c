"""Extension of Griffe: docstrings as they are in the source become what it knows.

Sphinx roles, which ``help()`` shows as they are, become links.
"""

import re
from typing import Any

from griffe import Extension, Object

import chandrop

_ROLE = re.compile(r":(?:func|class|mod|meth):`([\w.]+)`")
# The full name of each public name.
_PUBLIC = {
    name: f"chandrop.{package}.{name}"
    for package in chandrop.__all__
    for name in getattr(chandrop, package).__all__
}


class Roles(Extension):
    """Converts the roles in each docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Converts those of one object."""
        if obj.docstring is None:
            return
        owner = obj if obj.is_class else obj.parent

        def link(match: re.Match[str]) -> str:
            name = match[1]
            full = name if name.startswith("chandrop.") else _PUBLIC.get(name)
            if full is None and owner is not None and owner.name in _PUBLIC:
                full = f"{_PUBLIC[owner.name]}.{name}"
            return f"[`{name}`][{full}]" if full else f"`{name}`"

        text = _ROLE.sub(link, obj.docstring.value)
        # The name under which Griffe knows the section.
        obj.docstring.value = re.sub(
            "^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE
        )
