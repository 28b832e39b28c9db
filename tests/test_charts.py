"""The charts' geometry: every column inside the picture, every value in the table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency.admin.charts import ABOVE, HEIGHT, Series, Slot, stacked


def chart(*values, marked=lambda index: True):
    """A chart of series with these values."""
    slots = [Slot(f"slot {n}", str(n), marked(n)) for n in range(len(values[0]))]
    series = [Series(f"s{n}", f"series {n}", each) for n, each in enumerate(values)]
    return stacked("name", "Title", slots, series)


def boxes(column):
    return [(float(one.y), float(one.height)) for one in column.segments]


def test_columns_are_stacked_from_the_ground_up() -> None:
    (column,) = chart([10], [5], [5]).columns
    assert boxes(column) == [
        (ABOVE + HEIGHT / 2, HEIGHT / 2),
        (ABOVE + HEIGHT / 4, HEIGHT / 4),
        (ABOVE, HEIGHT / 4),
    ]
    assert [one.series for one in column.segments] == ["s0", "s1", "s2"]


def test_what_is_nothing_is_not_drawn() -> None:
    assert [one.series for one in chart([0], [3]).columns[0].segments] == ["s1"]


@pytest.mark.parametrize(
    ("highest", "lines"),
    [
        (0, ["1", "2"]),
        (1, ["1", "2"]),
        (3, ["2", "4"]),
        (11, ["10", "20"]),
        (61, ["40", "80"]),
        (100, ["50", "100"]),
        (1001, ["1k", "2k"]),
        (2_500_000, ["2M", "4M"]),
        (10**10, ["5G", "10G"]),
    ],
)
def test_lines_are_at_round_numbers(highest, lines) -> None:
    assert [line.text for line in chart([highest]).lines] == lines


def test_the_table_has_the_same_numbers() -> None:
    rows = chart([1, 2000], [3, 4]).rows
    assert [(row.label, row.values) for row in rows] == [
        ("slot 0", ("1", "3")),
        ("slot 1", ("2,000", "4")),
    ]


def test_a_pointer_is_told_what_a_column_shows() -> None:
    assert chart([1, 2], [3, 4]).columns[1].title == "slot 1. series 0: 2, series 1: 4"


@pytest.mark.parametrize("count", [1, 7, 8, 24, 90])
def test_words_below_are_few(count) -> None:
    assert 1 <= len(chart([1] * count).labels) <= 7


def test_only_what_is_worth_showing_is_shown() -> None:
    labels = chart([1] * 24, marked=lambda n: n % 6 == 0).labels
    assert [label.text for label in labels] == ["0", "6", "12", "18"]
    assert chart([1], marked=lambda n: False).labels == ()


@given(
    st.integers(1, 60).flatmap(
        lambda slots: st.lists(
            st.lists(st.integers(0, 10**15), min_size=slots, max_size=slots), min_size=1, max_size=5
        )
    )
)
def test_nothing_leaves_the_picture(values) -> None:
    drawn = chart(*values)
    for column in drawn.columns:
        assert float(column.x.rstrip("%")) + float(drawn.width.rstrip("%")) <= 100
        for top, height in boxes(column):
            assert top >= ABOVE
            assert top + height <= ABOVE + HEIGHT + 0.2  # rounded to tenths


def test_numbers_are_written_as_svg_reads_them(settings) -> None:
    """A German comma would break the picture, and groups belong into words only."""
    settings.LANGUAGE_CODE = "de"
    settings.USE_THOUSAND_SEPARATOR = True
    drawn = chart([1234, 7], [3, 4])
    places = [drawn.width, drawn.pitch, *(column.x for column in drawn.columns)]
    places += [part for one in drawn.columns for s in one.segments for part in (s.y, s.height)]
    assert all(re.fullmatch(r"\d+\.\d+%?", place) for place in places)
    assert drawn.rows[0].values[0] == "1.234"
