"""Window: every decision, at times that the test makes up."""

import pytest

from infinitfs.storage.window import FAR, FAST, FIRST_PAUSE, LONGEST_PAUSE, SLOW, Window


def make(most: int = 32) -> Window:
    return Window(most, lambda: 1.0)


def refuse(window: Window, now: float) -> None:
    window.refused(now, now)


def test_it_begins_open() -> None:
    window = make(2)
    assert (window.size, window.narrowed) == (2, False)
    for _ in range(2):
        assert window.admits(0)
        window.begin()
    assert not window.admits(0)
    window.end()
    assert window.admits(0)


def test_a_refusal_halves_it_and_pauses() -> None:
    window = make()
    refuse(window, 10)
    assert (window.size, window.narrowed) == (16, True)
    assert not window.admits(10 + 0.99 * FIRST_PAUSE)
    assert window.admits(10 + FIRST_PAUSE)


def test_refusals_of_one_burst_count_once() -> None:
    window = make()
    for number in range(32):
        window.refused(9.9, 10 + number / 1000)
    assert window.size == 16


def test_it_never_closes() -> None:
    window = make()
    now = 0.0
    for _ in range(100):
        now = max(now, window.opens_at) + 0.001
        refuse(window, now)
        assert window.size >= 1
        assert window.opens_at - now <= LONGEST_PAUSE


def test_the_pause_doubles_while_nothing_succeeds_and_starts_anew_after() -> None:
    window = make()
    pauses = []
    for now in range(0, 100, 10):
        refuse(window, now)
        pauses.append(window.opens_at - now)
    assert pauses[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert pauses[5:] == pytest.approx([LONGEST_PAUSE] * 5)
    window.answered(101, 101)
    refuse(window, 102)
    assert window.opens_at - 102 == pytest.approx(FIRST_PAUSE)


def test_the_pause_has_jitter() -> None:
    window = Window(32, lambda: 0.0)
    refuse(window, 0)
    assert window.opens_at == pytest.approx(FIRST_PAUSE / 2)


def test_it_grows_fast_to_half_of_what_was_refused_then_slowly() -> None:
    window = make(64)
    for second in range(0, 100, 10):
        refuse(window, second)  # 64 was refused; then down to 1
    assert window.size == 1
    now = start = window.opens_at
    at_goal = 0.0
    while window.narrowed:
        now += 0.01
        window.answered(now, now)
        if window.size == 32 and not at_goal:
            at_goal = now - start
    assert at_goal == pytest.approx(5 * FAST, abs=0.05)
    assert now - start == pytest.approx(5 * FAST + SLOW, abs=0.05)


def test_far_above_what_was_refused_it_grows_fast_again() -> None:
    window = make(256)
    for second in range(0, 1000, 10):
        refuse(window, second)
        window.answered(second + 0.2, second + 0.2)  # some get through: the limit seems to be the smallest there is
    assert window.size == 1
    now = start = window.opens_at
    while window.narrowed:
        now += 0.01
        window.answered(now, now)
    assert now - start == pytest.approx(2 * SLOW + 6 * FAST, abs=0.05)
    assert FAR == 2**2


def test_a_wait_that_is_asked_for_is_kept_and_pauses_no_longer_next_time() -> None:
    window = make()
    window.refused(10, 10, 7)
    assert window.opens_at == 17
    refuse(window, 20)
    assert window.opens_at == pytest.approx(20 + 2 * FIRST_PAUSE)
    window.refused(30, 30, FIRST_PAUSE)
    assert window.opens_at == pytest.approx(30 + 4 * FIRST_PAUSE), "it is not shortened"


def test_growth_takes_time_however_many_answers_come() -> None:
    window = make()
    refuse(window, 0)
    for _ in range(1000):
        window.answered(1, 1)
    assert window.size < 16 * 2 ** (1 / SLOW) + 1


def test_silence_proves_nothing() -> None:
    window = make(1024)
    refuse(window, 0)
    window.answered(1000, 1000)
    assert window.size < 1024


def test_what_began_before_the_cut_changes_nothing() -> None:
    window = make()
    refuse(window, 10)
    window.answered(9, 11)
    window.refused(9, 11)
    assert window.size == 16
    refuse(window, 12)
    assert window.opens_at - 12 == pytest.approx(2 * FIRST_PAUSE), "nothing was proven"
