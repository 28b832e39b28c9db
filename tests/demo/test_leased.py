"""The leased variant of an enrollment beside the atomic one: the same promises, other means."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import requests

from enrollment_demo.demo import fleet
from enrollment_demo.demo.relay import Fault
from tests.concurrent import until
from tests.demo.conftest import Sample

ATOMIC, LEASED = "/api/enrollments/", "/api/leased-enrollments/"


def enroll(
    sample: Sample, path: str, student: str, key: str, course: str = "CS101"
) -> requests.Response:
    body = {"student": student, "course": course}
    return sample.post("enrollment", body, key, token=sample.tokens["ann"], path=path)


@pytest.mark.parametrize("path", [ATOMIC, LEASED])
def test_a_crowd_of_retries_makes_one_row_each(
    sample: Sample, student: str, key: str, path: str
) -> None:
    """All at once, and one afterwards: the same bytes, and the row names the key."""
    with ThreadPoolExecutor(4) as crowd:
        crowded = list(crowd.map(lambda _: enroll(sample, path, student, key), range(4)))
    late = enroll(sample, path, student, key)

    assert {reply.status_code for reply in [*crowded, late]} == {201}
    assert {reply.content for reply in [*crowded, late]} == {late.content}
    assert late.headers["Idempotent-Replayed"] == "true"
    assert sample.counts(student=student) == (1, 1, 1)
    assert sample.rows("enrollment", idempotency_key=key) == [late.json()]


@pytest.mark.parametrize("path", [ATOMIC, LEASED])
def test_an_unreachable_child_leaves_the_key_to_the_retry(
    sample: Sample, student: str, key: str, path: str, billing_again: None
) -> None:
    """Which finds the seat that the first try took."""
    sample.relay.cut()
    reply = enroll(sample, path, student, key)
    assert (reply.status_code, reply.json()["code"]) == (503, "service_unavailable")

    sample.relay.mend()
    assert enroll(sample, path, student, key).status_code == 201
    assert sample.counts(student=student) == (1, 1, 1)


@pytest.mark.parametrize("path", [ATOMIC, LEASED])
def test_a_full_course_is_refused(sample: Sample, student: str, key: str, path: str) -> None:
    """With roster's own code, and the key is free once there is a seat."""
    course = sample.course(capacity=0)
    refused = enroll(sample, path, student, key, course)
    assert (refused.status_code, refused.json()["code"]) == (409, "course_full")
    assert sample.counts(student=student) == (0, 0, 0)

    sample.execute("roster", "UPDATE roster_course SET capacity = 1 WHERE code = %s", course)
    assert enroll(sample, path, student, key, course).status_code == 201


@pytest.mark.parametrize(("path", "open_meanwhile"), [(ATOMIC, 1), (LEASED, 0)])
def test_what_is_open_while_the_others_are_called(
    sample: Sample, student: str, key: str, path: str, open_meanwhile: int, billing_again: None
) -> None:
    """The atomic one's transaction; of the leased one, none."""
    sample.relay.fault = Fault.HOLD
    with ThreadPoolExecutor(1) as client:
        first = client.submit(enroll, sample, path, student, key)
        until(lambda: len(sample.rows("billing", student=student)) == 1)  # and its reply is held
        waiting = open_transactions(sample)
        sample.relay.cut()
        sample.relay.mend()

    assert first.result().status_code == 201
    assert waiting == open_meanwhile


def open_transactions(sample: Sample) -> int:
    """Of the enrollment service, that wait for something else than the database."""
    with psycopg.connect(sample.backing.database_url("enrollment", fleet.PROTECTED)) as connection:
        [found] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        ).fetchone()
        return int(found)
