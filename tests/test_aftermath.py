"""The check after a fault finds each kind of violation."""

import pytest

from tests.aftermath import Call, violations

ONE = Call("k", 201, b"1")


@pytest.mark.parametrize(
    ("history", "effects", "found"),
    [
        ([ONE, ONE, Call("k", 409, b"busy"), Call("k")], {"k": 1}, []),
        ([Call("k", 202, b"queued"), ONE], {"k": 1}, []),
        ([Call("k", 503), Call("l")], {"k": 1}, []),  # nobody was told, and it may be there
        ([ONE], {"k": 2}, ["k: 2 effects"]),
        ([Call("k")], {"k": 2}, ["k: 2 effects"]),
        ([ONE], {}, ["k: acknowledged, and not there"]),
        ([ONE, Call("k", 200, b"2")], {"k": 1}, ["k: 2 different replies"]),
        ([ONE, Call("l", 201, b"1")], {"k": 1, "l": 1}, ["one reply for ['k', 'l']"]),
    ],
)
def test_it_tells_what_went_wrong(
    history: list[Call], effects: dict[str, int], found: list[str]
) -> None:
    assert violations(history, effects) == found
