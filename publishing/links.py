"""The relative links of a Markdown page, rewritten for use outside of the repository."""

import re
from collections.abc import Callable

_FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
# The text of a link may hold a picture, which is a link with "!" before it.
_TEXT = r"(?:[^\[\]]|!\[[^\[\]]*\]\([^)]*\))*"
_LINK = re.compile(rf"(!?)\[({_TEXT})\]\(([^)\s]+)\)")


def with_links(page: str, resolve: Callable[[str], str | None]) -> str:
    """Returns a page with ``resolve(target)`` as the target of each relative link.

    Where that is None, a link becomes its text, and a picture is left out.
    """

    def rewritten(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if not picture:
            text = _LINK.sub(rewritten, text)
        if re.match(r"[a-z]+:|#", target):
            return f"{picture}[{text}]({target})"
        resolved = resolve(target)
        if resolved is None:
            return "" if picture else text
        return f"{picture}[{text}]({resolved})"

    parts = _FENCED.split(page)
    # Every second part is a block of code.
    parts[::2] = [_LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)
