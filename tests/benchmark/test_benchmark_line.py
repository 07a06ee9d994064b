"""The emulated lines: when a packet comes out."""

from benchmarks.regions.line import Line


def test_a_packet_takes_its_delay_and_its_bytes() -> None:
    assert Line(0.1, 1000.0).enter(5.0, 500) == 5.0 + 0.5 + 0.1


def test_packets_wait_for_those_before_them_and_keep_their_order() -> None:
    line = Line(0.1, 10_000.0)
    out = [line.enter(0.0, 1000) for _ in range(5)]
    assert [round(due or 0, 6) for due in out] == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert round(line.enter(2.0, 1000) or 0, 6) == 2.2  # it was empty again


def test_a_full_queue_drops() -> None:
    line = Line(0.0, 1000.0)
    assert line.enter(0.0, 1000) == 1.0
    assert line.enter(0.0, 1000) == 2.0
    assert line.enter(0.0, 1) is None
    assert line.enter(1.5, 1000) == 3.0
