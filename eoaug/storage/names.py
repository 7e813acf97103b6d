"""Safe file names, and links without signatures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import urlsplit, urlunsplit

__all__ = ["clean_href", "distinct_names", "safe_id"]


def safe_id(text: str) -> str:
    """Return ``text`` as a name that is one path segment on every operating system."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._")[:128].rstrip("._")
    if name.partition(".")[0].lower() in _DEVICES:
        name = f"item-{name}"[:128].rstrip("._")
    return name or "item"


def distinct_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a safe name for each text, no two alike, also where upper and lower case count as one.

    Texts whose safe names meet get a part of their hash, so that no name depends on their order.
    """
    names = {text: safe_id(text) for text in texts}
    counts = Counter(name.casefold() for name in names.values())
    return {
        text: name
        if counts[name.casefold()] == 1
        else f"{name[:110]}-{sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
        for text, name in names.items()
    }


_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""Names of devices on Windows, with any extension."""


def clean_href(href: str) -> str:
    """Return ``href`` without user name, password, query string and fragment; local paths are returned unchanged."""
    text = str(href)
    if not re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text.partition("://")[0] + "://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
