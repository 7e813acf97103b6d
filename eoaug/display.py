"""What objects show of themselves: rows of a name and a text, plain and as HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eoaug.errors import printable

__all__ = ["Rows", "Shown", "html_table", "text_table"]

Rows = Sequence[tuple[str, str]]
"""Names and texts; several lines of a text stand under each other."""

_CELL = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;background:none"


def text_table(title: str, rows: Rows) -> str:
    """Return a title and rows as aligned text."""
    shown = [(printable(name), _lines(text)) for name, text in rows]
    width = max((len(name) for name, _ in shown), default=0)
    lines = [title]
    for name, (first, *more) in shown:
        lines.append(f"  {name:<{width}}  {first}".rstrip())
        lines += [f"  {'':<{width}}  {line}" for line in more]
    return "\n".join(lines)


def html_table(title: str, rows: Rows) -> str:
    """Return a title and rows as HTML; everything in them is escaped."""
    body = "".join(
        f'<tr><th style="{_CELL};font-weight:600">{escape(printable(name))}</th>'
        f'<td style="{_CELL};white-space:pre-wrap">{escape("\n".join(_lines(text)))}</td></tr>'
        for name, text in rows
    )
    return f'<div><strong>{escape(title)}</strong><table style="border:none">{body}</table></div>'


def _lines(text: str) -> list[str]:
    """Return the lines of a text; what it holds may come from a file."""
    return [printable(line) for line in text.split("\n")]


class Shown:
    """Base of objects whose ``str`` is what a prompt and a notebook show."""

    def __repr__(self) -> str:
        """Return the text."""
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
