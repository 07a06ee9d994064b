"""The arithmetic of benchmarks: medians, percentiles, jitter, the order of places, the knee of a curve."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from infinitfs.benchmark.format import format_quantity, format_seconds
from infinitfs.benchmark.summary import flat, knee, percentile, ranked, summarize

seconds = st.floats(1e-6, 1e3)
samples = st.lists(seconds, min_size=1, max_size=50)


def test_a_summary_of_known_samples() -> None:
    found = summarize([0.010, 0.012, 0.011, 0.050], lost=1)
    assert (found.count, found.lost) == (4, 1)
    assert found.median == approx(0.0115)
    assert found.p95 == 0.050
    assert found.jitter == approx((0.002 + 0.001 + 0.039) / 3)


def test_the_bad_end_of_a_rate_is_the_low_one() -> None:
    assert summarize([float(rate) for rate in range(1, 101)], unit="B/s").p95 == 6
    assert summarize([float(second) for second in range(1, 101)]).p95 == 95


def test_one_sample_has_no_jitter() -> None:
    found = summarize([0.5])
    assert (found.median, found.p95, found.jitter) == (0.5, 0.5, 0.0)


@given(samples, st.floats(0.01, 1))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(taken: list[float], share: float) -> None:
    found = percentile(taken, share)
    assert found in taken
    assert sum(sample <= found for sample in taken) >= share * len(taken)
    assert sum(sample < found for sample in taken) < share * len(taken)


@given(samples)
def test_order_counts_for_jitter_only(taken: list[float]) -> None:
    forth, back = summarize(taken), summarize(taken[::-1])
    assert (forth.median, forth.p95, forth.count) == (back.median, back.p95, back.count)
    assert min(taken) <= forth.median <= forth.p95 <= max(taken) or len(taken) < 3
    assert 0 <= forth.jitter <= max(taken) - min(taken) + 1e-9


def test_places_without_an_answer_come_last() -> None:
    assert ranked({"far": 0.3, "dead": None, "near": 0.01, "also near": 0.01, "absent": None}) == [
        "also near",
        "near",
        "far",
        "absent",
        "dead",
    ]


def test_the_knee_is_where_more_connections_gain_little() -> None:
    assert knee({1: 10.0, 2: 20.0, 4: 39.0, 8: 42.0, 16: 43.0}) == 4
    assert knee({1: 10.0, 2: 9.9, 4: 3.0}) == 1
    assert knee({1: 5.0}) == 1


def test_a_curve_is_flat_once_two_points_are_clearly_below_the_best() -> None:
    assert not flat([10.0, 20.0])
    assert not flat([10.0, 20.0, 21.0])
    assert not flat([10.0, 12.0, 9.0])  # one bad point may be chance
    assert flat([20.0, 10.0, 9.0])


def test_quantities_have_three_digits_and_a_unit() -> None:
    shown = [format_seconds(value) for value in (0.000041, 0.00999, 0.01234, 0.2345, 0.9996, 12.0)]
    assert shown == ["41.0 µs", "9.99 ms", "12.3 ms", "234 ms", "1.00 s", "12.0 s"]
    assert format_quantity(12_345_678, "B/s") == "12.3 MB/s"
    assert format_quantity(4321.5, "1/s") == "4322/s"
    assert format_quantity(3.21, "1/s") == "3.2/s"
