"""Plain tables for terminals: names to the left, figures to the right."""

from collections.abc import Iterable, Sequence
from typing import Final

#: Characters of the first column: a line of a table fits a terminal, or wraps once.
_WIDTH: Final = 60


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows below their headings."""
    shown = [headings, *((row[0][:_WIDTH], *row[1:]) for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(headings))]
    lines = (
        "  ".join(
            (row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))  # figures to the right
        ).rstrip()
        for row in shown
    )
    return "\n".join(lines)


def printable(text: str) -> str:
    """Without what a client may have sent to take over an operator's terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def many(count: int, noun: str) -> str:
    """So many of them, in the plural where that is due."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
