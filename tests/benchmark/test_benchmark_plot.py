"""Pictures: well-formed, for light and dark, readable without colour, with the numbers they were given."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinitfs.benchmark.plot import Bar, Panel, Series, bars, panels

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)  # our own
    return [element.text or "" for element in root.iter() if element.tag in (f"{SVG}text", f"{SVG}title")]


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    rows = [
        Bar("near <1>", 0.010, "10.0 ms", reach=0.020, first=True),
        Bar("far", 0.040, "40.0 ms", reach=0.080),
        Bar("gone", None, "unreachable"),
    ]
    picture = bars("Title & all", "a note", rows)
    root = ElementTree.fromstring(picture)
    widths = [float(found.attrib["width"]) for found in root.iter(f"{SVG}rect") if found.get("class") != "paper"]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.01)
    shown = texts(picture)
    for expected in ("Title & all", "a note", "near <1>", "10.0 ms", "40.0 ms", "unreachable", "near <1>: 0.01"):
        assert expected in shown


def test_a_bar_of_nothing_can_be_drawn() -> None:
    assert "gone" in texts(bars("", "", [Bar("gone", None, "unreachable")]))
    assert "zero" in texts(bars("", "", [Bar("zero", 0.0, "0")]))


def test_lines_differ_without_colour() -> None:
    series = [Series(f"line {number}", [(0, number), (300, 2.0 * number)]) for number in range(6)]
    picture = panels("Title", "", "round trip", str, [Panel("frame", series, str)])
    root = ElementTree.fromstring(picture)
    drawn = list(root.iter(f"{SVG}polyline"))
    assert len(drawn) == 12  # legend and frame
    assert len({line.get("stroke-dasharray") for line in drawn}) == 6
    marks = [mark.attrib["d"] for mark in root.iter(f"{SVG}path") if (mark.get("class") or "").startswith("s")]
    assert len({re.sub(r"^M\S+ [\d.]+", "", mark) for mark in marks}) == 6
    assert "line 5, 300: 10.0" in texts(picture)


def test_both_schemes_colour_all_that_is_drawn() -> None:
    picture = bars("", "", [Bar("near", 1.0, "1")])
    light, dark = picture.split("@media (prefers-color-scheme: dark)")
    for selector in (".paper", "text", ".faint", ".grid", ".bar", ".first", ".reach", *(f".s{n}" for n in range(6))):
        assert f"{selector} {{" in light
        assert f"{selector} {{" in dark


@given(st.lists(st.floats(0, 1e12, allow_subnormal=False), min_size=1, max_size=5))
def test_every_point_is_within_its_frame(values: list[float]) -> None:
    points = [(float(place), value) for place, value in enumerate(values)]
    picture = panels("", "", "x", str, [Panel("frame", [Series("line", points)], str)])
    root = ElementTree.fromstring(picture)
    height = float(root.attrib["height"])
    for line in root.iter(f"{SVG}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 860 and 0 <= y <= height


@given(st.lists(st.text("abcdefgh ,-", min_size=1, max_size=60), min_size=1, max_size=6, unique=True))
def test_every_entry_of_the_legend_is_within_the_picture_and_above_the_frames(labels: list[str]) -> None:
    picture = panels("", "", "x", str, [Panel("frame", [Series(label, [(0, 1)]) for label in labels], str)])
    root = ElementTree.fromstring(picture)
    frame = min(
        float(path.attrib["d"].split()[1].split("H")[0])
        for path in root.iter(f"{SVG}path")
        if path.get("class") == "grid"
    )
    written = {text.text: text for text in root.iter(f"{SVG}text")}
    taken: list[tuple[float, float]] = []
    for label in labels:
        x, y = float(written[label].attrib["x"]), float(written[label].attrib["y"])
        assert x + 7 * len(label) <= 860 and y < frame - 10
        assert all(y != other or x >= end for other, end in taken)
        taken.append((y, x + 7 * len(label)))
