"""The window: which requests repeat an earlier one, and that it never keeps too much."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency.audit.duplicates import SLACK, Window
from idempotency.audit.endpoints import endpoint
from idempotency.audit.lines import Reader, Request
from idempotency.audit.repeats import Chain
from tests.audit.logged import as_json, combined, request


def chains(*requests: Request, window: float = 60, **limits: int) -> list[Chain]:
    found: list[Chain] = []
    following = Window(window, found.append, **limits)
    for each in requests:
        following.add(each, endpoint(each.path))
    following.close()
    return found


def counted(*requests: Request, window: float = 60) -> tuple[int, int]:
    """Duplicates and retried groups."""
    found = chains(*requests, window=window)
    return sum(each.duplicates for each in found), sum(each.retried for each in found)


# What is a repeat


def test_a_second_success_is_a_duplicate() -> None:
    (chain,) = chains(request(0), request(2.5))
    assert chain == Chain(
        "/orders/", "192.0.2.7 app/1.0", 2, 1, False, (0, 1, 0, 0, 0), (0, 0, 0, 0, 0), False
    )


@pytest.mark.parametrize("status", [0, 408, 499, 500, 502, 503, 504])
def test_a_success_after_no_known_end_is_a_retry(status: int) -> None:
    (chain,) = chains(request(0, status=status, answer=0), request(31))
    assert (chain.duplicates, chain.retried, chain.retry_gaps) == (0, True, (0, 0, 0, 1, 0))


@pytest.mark.parametrize("status", [302, 400, 401, 409, 422, 429])
def test_what_was_refused_had_no_effect(status: int) -> None:
    assert counted(request(0, status=status), request(1)) == (0, 0)


def test_a_failure_after_a_success_is_none_of_both() -> None:
    assert counted(request(0), request(1, status=500)) == (0, 0)


def test_failures_without_a_success_are_none_of_both() -> None:
    assert counted(*(request(each, status=502) for each in range(5))) == (0, 0)


def test_a_chain_counts_once_with_all_its_attempts() -> None:
    (chain,) = chains(
        request(0, status=499),
        request(0.5, status=503),
        request(3, status=429),
        request(10),
        request(11, status=500),
        request(50),
        request(110),
    )
    assert (chain.attempts, chain.duplicates, chain.retried) == (7, 2, True)
    assert chain.retry_gaps == (1, 1, 1, 0, 0)
    assert chain.duplicate_gaps == (0, 0, 0, 2, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"address": "192.0.2.8"},
        {"agent": "app/1.1"},
        {"method": "PATCH"},
        {"path": "/orders/?a=1"},
        {"size": 99},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_request_is_no_repeat(other: dict[str, object]) -> None:
    first = request(size=98)
    assert counted(first, request(1, **{"size": 98} | other)) == (0, 0)
    assert counted(first, request(1, size=98)) == (1, 0)


@pytest.mark.parametrize(("gap", "found"), [(59.999, 1), (60, 1), (60.001, 0)])
def test_the_window_ends_after_its_last_moment(gap: float, found: int) -> None:
    assert counted(request(0), request(gap)) == (found, 0)
    assert counted(request(0, status=499), request(gap)) == (0, found)


def test_the_window_begins_anew_with_each_repeat() -> None:
    assert counted(*(request(50 * each) for each in range(4))) == (3, 0)
    assert counted(*(request(50 * each) for each in range(4)), window=49) == (0, 0)


@pytest.mark.parametrize(
    ("gap", "column"),
    [(0, 0), (0.999, 0), (1, 1), (5, 2), (30, 3), (60, 3), (math.nextafter(60, 61), 4)],
)
def test_gaps_are_counted_by_their_length(gap: float, column: int) -> None:
    start = request()
    (chain,) = chains(start._replace(time=0), start._replace(time=gap), window=100)
    assert [number for number, count in enumerate(chain.duplicate_gaps) if count] == [column]


# The answer is evidence where the request's size is unknown


@pytest.mark.parametrize(("answer", "found"), [(120, 1), (123, 1), (117, 1), (124, 0), (40, 0)])
def test_answers_that_differ_are_of_different_requests(answer: int, found: int) -> None:
    assert counted(request(0), request(1, answer=answer)) == (found, 0)


def test_so_are_other_statuses() -> None:
    assert counted(request(0), request(1, status=200)) == (0, 0)
    assert counted(request(0, answer=None), request(1, status=200, answer=None)) == (0, 0)
    assert counted(request(0, answer=None), request(1, answer=None)) == (1, 0)


def test_where_the_requests_size_is_known_the_answer_may_differ() -> None:
    assert counted(request(0, size=9), request(1, size=9, status=200, answer=4)) == (1, 0)


def test_a_different_answer_begins_a_chain_of_its_own() -> None:
    found = chains(request(0), request(1, answer=400), request(2, answer=400))
    assert [(each.attempts, each.duplicates, each.ended_otherwise) for each in found] == [
        (1, 0, True),
        (2, 1, False),
    ]


def test_the_answer_of_a_failure_says_nothing() -> None:
    assert counted(request(0, status=499, answer=0), request(1, answer=400)) == (0, 1)


# The order of time


@given(st.permutations([0, 1.0, 2.5, 4.9]))
def test_lines_out_of_order_within_seconds_are_put_in_order(order: list[float]) -> None:
    statuses = {0: 499, 1.0: 503, 2.5: 201, 4.9: 201}
    (chain,) = chains(*(request(each, status=statuses[each]) for each in order))
    assert (chain.attempts, chain.duplicates, chain.retried) == (4, 1, True)
    assert chain.duplicate_gaps == (0, 1, 0, 0, 0)


def test_time_that_jumps_back_is_told_and_goes_on_from_there() -> None:
    found: list[Chain] = []
    following = Window(60, found.append)
    times = (0, 1, 90_000, -500, -499, -SLACK - 499, 90_001)
    for time in times:
        following.add(request(time), "/orders/")
    following.close()
    assert following.jumps == 1
    assert sum(each.duplicates for each in found) == 3


def test_after_a_jump_a_chain_that_is_out_of_reach_is_not_taken_up() -> None:
    one, other = {"path": "/one/"}, {"path": "/other/"}
    assert counted(request(50, **one), request(0, **other), request(65, **other)) == (0, 0)


# What it keeps


events = st.builds(
    request,
    st.floats(0, 300) | st.floats(-1e5, 1e5),
    address=st.sampled_from([f"192.0.2.{number}" for number in range(20)]),
    path=st.sampled_from(["/a/", "/b/", "/c/"]),
    status=st.sampled_from([201, 499, 400]),
)


@given(st.lists(events, max_size=200), st.integers(1, 8), st.integers(0, 8))
def test_it_never_keeps_more_than_its_bound(
    requests: list[Request], max_chains: int, max_held: int
) -> None:
    following = Window(60, lambda chain: None, max_chains=max_chains, max_held=max_held)
    for each in requests:
        following.add(each, "/")
        assert len(following._chains) <= max_chains
        assert len(following._held) <= max_held
        assert len(following) <= max_chains + max_held
    following.close()
    assert len(following) == 0


def test_what_it_gives_up_is_told() -> None:
    following = Window(60, lambda chain: None, max_chains=3)
    for number in range(10):
        following.add(request(number, path=f"/{number}/"), "/")
    following.close()
    assert following.given_up == 7


def test_it_gives_up_what_was_silent_longest() -> None:
    found: list[Chain] = []
    following = Window(60, found.append, max_chains=2)
    for after, path in ((0, "/a/"), (1, "/b/"), (10, "/a/"), (11, "/c/"), (50, "/a/")):
        following.add(request(after, path=path), path)
    following.close()
    assert [(each.endpoint, each.duplicates) for each in found] == [("/a/", 2)]


def test_a_chain_takes_the_same_memory_however_long_it_grows() -> None:
    found: list[Chain] = []
    following = Window(60, found.append)
    for number in range(1_000):
        following.add(request(30 * number), "/orders/")
        assert len(following) <= 2
    following.close()
    assert found[0].duplicates == 999


def test_it_forgets_what_is_out_of_reach() -> None:
    following = Window(60, lambda chain: None)
    for number in range(1_000):
        following.add(request(number, path=f"/{number}/"), "/")
        assert len(following) <= 60 + SLACK + 2


# The truth


@settings(max_examples=200)
@given(st.data())
def test_it_finds_exactly_the_duplicates_that_were_made(data: st.DataObject) -> None:
    """Each person sends some requests long apart, and repeats each of them some times.

    The lines are of both formats, and up to four seconds late.
    """
    lines: list[tuple[int, str]] = []
    duplicates = retried = 0
    for person in range(data.draw(st.integers(1, 5))):
        line, after = data.draw(st.sampled_from([combined, as_json])), 0
        name = "address" if line is combined else "remote_addr"
        for _ in range(data.draw(st.integers(1, 4))):
            after += 61 + data.draw(st.integers(0, 100))
            statuses = data.draw(st.lists(st.sampled_from([201, 499, 0, 503, 400]), max_size=5))
            for status in statuses:
                after += data.draw(st.integers(1, 60))
                written = after + data.draw(st.integers(0, 4))
                sent = line(after, status=f"{status:03}", **{name: f"192.0.2.{person}"})
                lines.append((written, sent))
            if 201 in statuses:
                duplicates += statuses.count(201) - 1
                retried += any(status != 400 for status in statuses[: statuses.index(201)])
    read = Reader(frozenset({"POST"})).read
    requests = [read(sent.encode()) for _, sent in sorted(lines, key=lambda line: line[0])]
    assert counted(*requests) == (duplicates, retried)
