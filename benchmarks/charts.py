"""The figures as SVG files, each of which stands alone in a page."""

from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

from benchmarks.cases import Kind
from benchmarks.figures import Row

#: Ours, and everybody else.
OURS, OTHERS = "#0b6e4f", "#9aa5b1"
#: Pixels: the width of a chart, the height of a bar and of what stands around all of them.
WIDTH, BAR, AROUND = 800, 34, 90

_STYLE = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    title_font_size=15,
    label_font_size=12,
    major_label_font_size=12,
    value_font_size=12,
    transition="0s",
)


def draw(figures: dict[str, Any], folder: Path) -> None:
    """Write one file a chart; the folder is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    timings = [row for row in figures["timings"] if "ratio" in row]
    for kind in (Kind.REPLAY, Kind.FIRST):
        rows = [row for row in timings if row["kind"] in (kind, kind.base)]
        title = f"{kind}: time as a multiple of {rows[0]['name']}"
        _write(folder / f"{kind.name.lower()}.svg", title, rows, "ratio")
    if figures["http"]:
        for row in figures["http"]:
            row["label"] = f"{row['kind']}: {row['name'].partition(':')[0]}"
        title = "requests a second over HTTP, gunicorn with 2 processes"
        _write(folder / "http.svg", title, figures["http"], "requests_a_second", "label")


def _write(path: Path, title: str, rows: list[Row], value: str, label: str = "name") -> None:
    chart = pygal.HorizontalBar(
        title=title,
        style=_STYLE,
        js=[],  # a chart is a picture: nothing to run, nothing to fetch
        width=WIDTH,
        height=AROUND + BAR * len(rows),
        show_legend=False,
        print_values=True,
        print_values_position="top",
        no_prefix=True,
    )
    chart.x_labels = [row[label] for row in rows]
    colored = [
        {"value": row[value], "color": OURS if row["name"].startswith("ours") else OTHERS}
        for row in rows
    ]
    chart.add("", colored)
    chart.render_to_file(str(path))
