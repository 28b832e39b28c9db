"""The breaker: who is let through to a server that does not answer, and when."""

from idempotency.layers.breaker import FAILURES, PAUSE, Breaker


def broken():
    """A breaker that has just opened, and its clock."""
    clock = [1000.0]
    breaker = Breaker(lambda: clock[0])
    assert [breaker.failed() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    return breaker, clock


def test_it_opens_after_some_failures_in_a_row():
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed()
        assert breaker.allows()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()


def test_of_all_who_come_after_a_pause_one_probes():
    """Every thread that looked again would wait for a time-out of its own."""
    breaker, clock = broken()
    assert [breaker.allows() for _ in range(3)] == [False] * 3
    clock[0] += PAUSE
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert not breaker.allows()


def test_one_that_never_comes_back_from_its_probe_is_followed_by_another():
    breaker, clock = broken()
    for _ in range(3):
        clock[0] += PAUSE
        assert [breaker.allows(), breaker.allows()] == [True, False]


def test_a_probe_that_is_answered_closes_it():
    breaker, clock = broken()
    clock[0] += PAUSE
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.allows() for _ in range(3)] == [True] * 3
