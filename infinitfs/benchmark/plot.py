"""Pictures of measurements, as SVG.

Above: `cli/benchmark`, and `benchmarks/`, which draws all its pictures here. Below: nothing; a core that gives text.
Invariant: a picture is readable in light and in dark (it follows `prefers-color-scheme`) and without colour: every
number is written, and lines differ by their marks and dashes. A `<title>` holds the exact value of what it belongs to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from xml.sax.saxutils import escape

Format = Callable[[float], str]

_STYLE = """\
  svg { color-scheme: light dark; font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
  .paper { fill: #ffffff; } text { fill: #1f2328; } .faint { fill: #59636e; }
  .grid { stroke: #d1d9e0; } .bar { fill: #4f86c6; } .first { fill: #1a7f37; } .reach { stroke: #1f2328; }
  .s0 { stroke: #0b5cad; fill: #0b5cad; }
  .s1 { stroke: #b35900; fill: #b35900; }
  .s2 { stroke: #1a7f37; fill: #1a7f37; }
  .s3 { stroke: #8250df; fill: #8250df; }
  .s4 { stroke: #b3261e; fill: #b3261e; } .s5 { stroke: #59636e; fill: #59636e; }
  polyline { fill: none !important; stroke-width: 2; } .head { font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9198a1; }
    .grid { stroke: #30363d; } .bar { fill: #3f74b5; } .first { fill: #2ea043; } .reach { stroke: #e6edf3; }
    .s0 { stroke: #58a6ff; fill: #58a6ff; }
  .s1 { stroke: #f0a050; fill: #f0a050; }
    .s2 { stroke: #56d364; fill: #56d364; }
  .s3 { stroke: #bc8cff; fill: #bc8cff; }
    .s4 { stroke: #ff7b72; fill: #ff7b72; }
  .s5 { stroke: #9198a1; fill: #9198a1; }
  }
"""
_WIDTH = 860
_EDGE = 16
_ROW = 24
_LETTER = 7.2  # the width of a letter of 13 pixels, roughly
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "1 2")


@dataclass(frozen=True)
class Bar:
    """A bar up to `value`, None where there is nothing to draw, and a whisker up to `reach`; beside it `text`."""

    label: str
    value: float | None
    text: str
    reach: float | None = None
    first: bool = False


@dataclass(frozen=True)
class Series:
    """A line through `points`, in ascending order of x."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Lines in one frame. `form` writes values of its y axis, which begins at 0."""

    title: str
    series: Sequence[Series]
    form: Format


def bars(title: str, note: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from 0, one below the other."""
    left = _EDGE + _LETTER * max(len(row.label) for row in rows) + 12
    right = _WIDTH - _EDGE - _LETTER * max(len(row.text) for row in rows) - 12
    most = max((max(row.value or 0, row.reach or 0) for row in rows), default=0) or 1.0
    scale = (right - left) / most
    top = 68
    parts = []
    for number, row in enumerate(rows):
        y = top + number * _ROW
        weight = ' class="head"' if row.first else ""
        parts.append(f'<text x="{left - 10:.0f}" y="{y + 16}" text-anchor="end"{weight}>{escape(row.label)}</text>')
        end = left
        if row.value is not None:
            end = left + scale * max(row.value, row.reach or 0)
            shape = "first" if row.first else "bar"
            parts.append(
                f'<rect class="{shape}" x="{left:.0f}" y="{y + 3}" width="{max(scale * row.value, 1):.1f}" height="16" '
                f'rx="2"><title>{escape(row.label)}: {row.value!r}</title></rect>'
            )
        if row.value is not None and row.reach is not None:
            parts.append(
                f'<path class="reach" fill="none" d="M{left + scale * row.value:.1f} {y + 11}H{end:.1f}'
                f'm0 -5v10"><title>{escape(row.label)}: {row.reach!r}</title></path>'
            )
        kind = "faint" if row.value is None else "head" if row.first else ""
        parts.append(f'<text class="{kind}" x="{end + 8:.0f}" y="{y + 16}">{escape(row.text)}</text>')
    return _picture(title, note, _WIDTH, top + len(rows) * _ROW + _EDGE, parts)


def panels(title: str, note: str, x_label: str, x_form: Format, frames: Sequence[Panel], columns: int = 2) -> str:
    """Frames of lines, `columns` side by side, with one legend for all of them."""
    labels = list(dict.fromkeys(series.label for frame in frames for series in frame.series))
    width = (_WIDTH - _EDGE * (columns + 1)) / columns
    height = 210
    places = _places([44 + _LETTER * len(label) for label in labels])
    parts = [part for number, label in enumerate(labels) for part in _legend(number, label, *places[number])]
    top = 18 + max((y for _, y in places), default=78)
    for number, frame in enumerate(frames):
        x = _EDGE + number % columns * (width + _EDGE)
        y = top + number // columns * (height + _EDGE)
        parts += _frame(frame, labels, x, y, width, height, x_label, x_form)
    rows = ceil(len(frames) / columns)
    return _picture(title, note, _WIDTH, top + rows * (height + _EDGE), parts)


def _places(widths: Sequence[float]) -> list[tuple[float, float]]:
    """Where the entries of a legend begin, in as many rows as they need."""
    places: list[tuple[float, float]] = []
    x, y = float(_EDGE), 78.0
    for width in widths:
        if places and x + width > _WIDTH - _EDGE:
            x, y = float(_EDGE), y + _ROW
        places.append((x, y))
        x += width + 24
    return places


def _legend(number: int, label: str, x: float, y: float) -> Iterable[str]:
    yield _line(number, [(x, y), (x + 36, y)]) + _mark(number, x + 18, y)
    yield f'<text x="{x + 44:.0f}" y="{y + 4:.0f}">{escape(label)}</text>'


def _frame(
    frame: Panel,
    labels: Sequence[str],
    x: float,
    y: float,
    width: float,
    height: float,
    x_label: str,
    x_form: Format,
) -> Iterable[str]:
    points = [point for series in frame.series for point in series.points]
    ticks = _ticks(max((value for _, value in points), default=1.0) or 1.0)
    across = sorted({place for place, _ in points})
    furthest = across[-1] or 1.0
    left, right, low, high = x + 74, x + width - 12, y + height - 42, y + 34

    def at(place: float, value: float) -> tuple[float, float]:
        return left + (right - left) * place / furthest, low - (low - high) * value / ticks[-1]

    yield f'<text class="head" x="{x:.0f}" y="{y + 18:.0f}">{escape(frame.title)}</text>'
    for tick in ticks:
        _, at_y = at(0, tick)
        yield f'<path class="grid" d="M{left:.1f} {at_y:.1f}H{right:.1f}"/>'
        label = escape(frame.form(tick)) if tick else "0"
        yield f'<text class="faint" x="{left - 6:.0f}" y="{at_y + 4:.0f}" text-anchor="end">{label}</text>'
    for place in _spread(across, furthest):
        at_x, _ = at(place, 0)
        label = escape(x_form(place))
        yield f'<text class="faint" x="{at_x:.0f}" y="{low + 17:.0f}" text-anchor="middle">{label}</text>'
    middle = (left + right) / 2
    yield f'<text class="faint" x="{middle:.0f}" y="{low + 34:.0f}" text-anchor="middle">{escape(x_label)}</text>'
    for series in frame.series:
        number = labels.index(series.label)
        yield _line(number, [at(*point) for point in series.points])
        for place, value in series.points:
            exact = f"{escape(series.label)}, {x_form(place)}: {value!r}"
            yield _mark(number, *at(place, value), f"<title>{exact}</title>")


def _line(number: int, points: Sequence[tuple[float, float]]) -> str:
    dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="s{number % 6}"{dash} points="{joined}"/>'


def _mark(number: int, x: float, y: float, title: str = "") -> str:
    """A shape of its own for each of six lines."""
    outline = (
        "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # circle
        "m-4 -4h8v8h-8z",  # square
        "m0 -5l5 9h-10z",  # triangle
        "m0 -5l5 5l-5 5l-5 -5z",  # diamond
        "m-5 -4h10l-5 9z",  # triangle, upside down
        "m-5 -1h4v-4h2v4h4v2h-4v4h-2v-4h-4z",  # cross
    )[number % 6]
    return f'<path class="s{number % 6}" d="M{x:.1f} {y:.1f}{outline}">{title}</path>'


def _ticks(most: float) -> list[float]:
    """0 and up to five round numbers, the last of which is not below `most`."""
    power = 10.0 ** floor(log10(most))
    step = next(power * share for share in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5) if power * share * 5 >= most)
    return [step * number for number in range(ceil(most / step - 1e-9) + 1)]


def _spread(places: Sequence[float], furthest: float) -> list[float]:
    """Of places to write, those with room for it."""
    chosen: list[float] = []
    for place in reversed(places):
        if not chosen or chosen[-1] - place >= furthest / 8:
            chosen.append(place)
    return chosen


def _picture(title: str, note: str, width: int, height: float, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
            f'height="{height:.0f}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height:.0f}"/>',
            f'<text class="head" x="{_EDGE}" y="28" style="font-size: 17px">{escape(title)}</text>',
            f'<text class="faint" x="{_EDGE}" y="49">{escape(note)}</text>',
            *parts,
            "</svg>\n",
        ]
    )
