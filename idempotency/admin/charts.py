"""Stacked columns, as what a template draws as SVG: positions and words, no markup.

Widths are shares of the picture's, so that it fits a phone and its letters keep their size; heights
are pixels. All of it is text, since a template would write a float as the visitor's language does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from django.utils.formats import number_format

#: Pixels: of the columns, of the room above the highest, and of the line of words below.
HEIGHT, ABOVE, BELOW = 160, 18, 22
#: Words below the columns, at most: more would overlap on a phone.
_LABELS: Final = 7
#: The part of its place that a column takes.
_FILL: Final = 0.72


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of what is stacked; `name` is also the end of its CSS class."""

    name: str
    label: Any
    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class Slot:
    """What a column stands for: in full, and below the columns where there is room."""

    label: str
    short: str
    #: Whether the short one is worth showing: at midnight for instance.
    marked: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A rectangle of one series."""

    series: str
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class Column:
    """Rectangles on top of each other, and what a pointer is told."""

    place: str
    x: str
    title: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """A word below the columns (`at` a share of the width), or beside a line (a height)."""

    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """What a column shows, in numbers."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture, and the same as a table."""

    name: str
    title: Any
    series: Sequence[Series]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    lines: tuple[Label, ...]
    labels: tuple[Label, ...]
    #: Width of a column, and of the place that it stands in.
    width: str
    pitch: str

    #: Pixels.
    height: int = ABOVE + HEIGHT + BELOW
    ground: int = ABOVE + HEIGHT
    baseline: int = ABOVE + HEIGHT + BELOW - 6


def number(value: int) -> str:
    """As people of this language read it."""
    return number_format(value, force_grouping=True)


def stacked(name: str, title: Any, slots: Sequence[Slot], series: Sequence[Series]) -> Chart:
    """The chart of these series; each has a value for every slot."""
    pitch = 100 / len(slots)
    stacks = list(zip(*(each.values for each in series), strict=True))
    top = _top(max(map(sum, stacks)))
    rows = tuple(
        Row(slot.label, tuple(number(value) for value in stack))
        for slot, stack in zip(slots, stacks, strict=True)
    )
    return Chart(
        name,
        title,
        series,
        rows,
        columns=tuple(
            Column(
                _percent(index * pitch),
                _percent((index + (1 - _FILL) / 2) * pitch),
                _title(row, series),
                _segments(series, index, top),
            )
            for index, row in enumerate(rows)
        ),
        lines=tuple(
            Label(_pixels(ABOVE + HEIGHT * (1 - value / top)), _short(value))
            for value in _ticks(top)
        ),
        labels=_labels(slots, pitch),
        width=_percent(pitch * _FILL),
        pitch=_percent(pitch),
    )


def _segments(series: Sequence[Series], index: int, top: int) -> tuple[Segment, ...]:
    """From the ground up; what is nothing is not drawn."""
    ends = [0]
    for each in series:
        ends.append(ends[-1] + each.values[index])
    return tuple(
        Segment(
            each.name,
            _pixels(ABOVE + HEIGHT * (1 - end / top)),
            _pixels(HEIGHT * (end - start) / top),
        )
        for each, (start, end) in zip(series, pairwise(ends), strict=True)
        if end > start
    )


def _title(row: Row, series: Sequence[Series]) -> str:
    told = (f"{each.label}: {value}" for each, value in zip(series, row.values, strict=True))
    return f"{row.label}. {', '.join(told)}"


def _labels(slots: Sequence[Slot], pitch: float) -> tuple[Label, ...]:
    marked = [index for index, slot in enumerate(slots) if slot.marked]
    step = -(-len(marked) // _LABELS) or 1
    return tuple(
        Label(_percent((index + 0.5) * pitch), slots[index].short) for index in marked[::step]
    )


def _top(highest: int) -> int:
    """The next round number that has a half: 2, 4, 6, 8, 10, 20, 40 ..."""
    magnitude = 1
    while True:
        for step in (2, 4, 6, 8, 10):
            if highest <= step * magnitude:
                return step * magnitude
        magnitude *= 10


def _ticks(top: int) -> tuple[int, int]:
    return top // 2, top


def _short(value: int) -> str:
    """Few characters: the picture may be small."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return str(value)


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _pixels(value: float) -> str:
    return f"{value:.1f}"
