"""The oracle finds each kind of violation where it is, and none where it is not."""

import json
from typing import Any

import pytest

from chaos.oracle import Call, Name, judge, recovery

NAME: Name = ("atomic", "ann", "k")
#: Seconds in which a key must have its reply, once the faults are over.
LIMIT = 5.0
LIMITS = {"atomic": LIMIT}


def call(
    status: int | None = 201, *, last: bool = False, at: float = 0.0, by: str = "right", **said: Any
) -> Call:
    body = {"caller": "ann", "name": "k", "effect": 1, "variant": "right"} | said
    text = json.dumps(body).encode()
    return Call(
        *NAME, status=status, body=text, last=last, variant=by, invoked=at, answered=at + 1.0
    )


def reused(by: str, *, last: bool = False) -> Call:
    return call(409, by=by, last=last, code="idempotency_key_reused")


def job(status: str, **changes: Any) -> Call:
    result = {"caller": "ann", "name": "k"} if status == "succeeded" else None
    document = {"status": status, "result": result} | changes
    return Call(*NAME, status=200, body=json.dumps(document).encode())


GOOD: dict[str, tuple[list[Call], dict[Name, int]]] = {
    "told again and again": ([call(), call(), call(last=True)], {NAME: 1}),
    "told nothing": ([call(None), call(503), call(409)], {NAME: 1}),
    "undone": ([call(503), call(None)], {}),
    "provisional": ([call(202, effect=0), call()], {NAME: 1}),
    "a job": ([job("succeeded")], {NAME: 1}),
    "a job that failed": ([job("failed")], {}),
    "another payload, refused": ([call(), reused("mistaken")], {NAME: 1}),
    "another payload, that was first": (
        [reused("right", last=True), call(by="mistaken", variant="mistaken", last=True)],
        {NAME: 1},
    ),
    "late, but in time": ([call(409, last=True), call(last=True, at=LIMIT - 1)], {NAME: 1}),
    "wedged on the way, not in the end": ([call(409), call(last=True)], {NAME: 1}),
}
BAD: dict[str, tuple[str, list[Call], dict[Name, int]]] = {
    "twice": ("at most one effect", [call()], {NAME: 2}),
    "twice, and nobody was told": ("at most one effect", [call(None)], {NAME: 2}),
    "lost": ("every success is there", [call()], {}),
    "two replies": ("one reply", [call(), call(effect=2)], {NAME: 1}),
    "two statuses": ("one reply", [call(), call(200)], {NAME: 1}),
    "another caller's": ("no reply across callers", [call(caller="ben")], {NAME: 1}),
    "another key's": ("no reply across callers", [call(name="l")], {NAME: 1}),
    "wedged": ("nobody is wedged", [call(), call(409, last=True)], {NAME: 1}),
    "wedged for too long": (
        "nobody is wedged",
        [call(409, last=True), call(last=True, at=LIMIT)],
        {NAME: 1},
    ),
    "refused for good": ("nobody is wedged", [reused("right", last=True)], {}),
    "another payload's": ("another payload is refused", [call(by="mistaken")], {NAME: 1}),
    "without an answer at last": ("nobody is wedged", [call(None, last=True)], {}),
    "a job that was not": ("every success is there", [job("succeeded")], {}),
    "a job that was": ("a true status", [job("failed")], {NAME: 1}),
}


@pytest.mark.parametrize(("history", "effects"), GOOD.values(), ids=GOOD)
def test_what_held_is_not_accused(history: list[Call], effects: dict[Name, int]) -> None:
    assert judge(history, effects, effects, LIMITS) == []


@pytest.mark.parametrize(("promise", "history", "effects"), BAD.values(), ids=BAD)
def test_what_was_broken_is_found(
    promise: str, history: list[Call], effects: dict[Name, int]
) -> None:
    found = judge(history, effects, {}, LIMITS)
    assert {violation.promise for violation in found} == {promise}


def test_the_log_of_commits_is_believed_as_well() -> None:
    """Where the table itself has lost something, or somebody has tidied it."""
    twice = judge([call()], {NAME: 1}, {NAME: 2}, LIMITS)
    assert [violation.promise for violation in twice] == ["at most one effect"]
    gone = judge([call(None)], {}, {NAME: 1}, LIMITS)
    assert [violation.promise for violation in gone] == ["what is committed stays"]


def test_the_slowest_recovery_is_told() -> None:
    history = [call(503, last=True), call(last=True, at=3.0), call(None, at=9.0)]
    assert recovery(history) == {"atomic": 4.0}
