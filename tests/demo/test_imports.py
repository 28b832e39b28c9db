"""Sections imported as a job: by a real worker, which is killed, and a real beat."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import requests

from enrollment_demo.demo.services import Beat, Service, Worker
from tests.concurrent import until
from tests.demo.conftest import Sample

PATH = "/api/section-imports/"
#: Seconds for a job, with a lease that runs out, a sweep and a worker that starts meanwhile.
PATIENCE = 60


@pytest.fixture(scope="module")
def _worker(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    logs = tmp_path_factory.mktemp("worker")
    worker = Worker("worker", "settings.enrollment", logs / "worker.log")
    beat = Beat("beat", "settings.enrollment", logs / "beat.log")
    with ExitStack() as stack:
        for process in (worker, beat):
            process.env = dict(sample.services["enrollment"].env)
            stack.enter_context(process)
        yield worker


@pytest.fixture
def worker(_worker: Worker) -> Iterator[Worker]:
    """Running when the test ends, whatever it did to it."""
    yield _worker
    if not _worker.running:
        _worker.start()


@pytest.fixture
def students() -> list[str]:
    """Twelve that nobody else has."""
    return [f"i-{uuid4().hex[:8]}" for _ in range(12)]


def hand_in(
    sample: Sample, key: str, students: list[str], course: str = "CS101"
) -> requests.Response:
    body = {"course": course, "students": students}
    return sample.post("enrollment", body, key, token=sample.tokens["ann"], path=PATH)


def final(ask: Callable[[], requests.Response]) -> requests.Response:
    """The first reply that is no 202."""
    deadline = time.monotonic() + PATIENCE
    while (reply := ask()).status_code == 202:
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.05)
    return reply


def counts(sample: Sample, students: list[str]) -> set[tuple[int, int, int]]:
    """Rows in enrollment, billing, roster that one of the students has."""
    return {sample.counts(student=student) for student in students}


def test_a_section_is_imported(
    sample: Sample, worker: Worker, students: list[str], key: str
) -> None:
    """202 with the job's document and its address; then the final document, under both."""
    first = hand_in(sample, key, students)
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    assert int(first.headers["Retry-After"]) >= 1
    assert "Idempotent-Replayed" not in first.headers

    done = final(lambda: hand_in(sample, key, students))

    assert (done.status_code, done.headers["Idempotent-Replayed"]) == (200, "true")
    job = done.json()
    assert (job["id"], job["status"], job["error"]) == (first.json()["id"], "succeeded", None)
    assert job["progress"] == {"done": 12, "total": 12}
    assert job["result"] == {"course": "CS101", "enrolled": students, "refused": []}
    assert counts(sample, students) == {(1, 1, 1)}
    assert look_up(sample, first.headers["Location"], "ann").json() == job
    assert look_up(sample, first.headers["Location"], "ben").status_code == 404


def look_up(sample: Sample, path: str, who: str) -> requests.Response:
    return requests.get(
        sample.services["enrollment"].url + path,
        headers={"Authorization": f"Token {sample.tokens[who]}"},
        timeout=30,
    )


def test_rows_name_their_keys(
    sample: Sample, worker: Worker, students: list[str], key: str
) -> None:
    """The import its request's; each student's rows those that are derived from it."""
    final(lambda: hand_in(sample, key, students))

    [section] = sample.imports(idempotency_key=key)
    assert (section["course"], section["students"]) == ("CS101", students)
    [enrollment] = sample.rows("enrollment", student=students[2])
    [invoice] = sample.rows("billing", idempotency_key=f"{key}-student.3-billing")
    [seat] = sample.rows("roster", idempotency_key=f"{key}-student.3-roster")
    assert enrollment["idempotency_key"] == f"{key}-student.3"
    assert (enrollment["invoice"], enrollment["roster_entry"]) == (invoice["id"], seat["id"])


def test_a_worker_is_killed_in_the_middle_of_a_step(
    sample: Sample, worker: Worker, students: list[str], key: str, billing_again: None
) -> None:
    """The fifth student has a seat and an invoice, and no enrollment yet. Retries are told how
    the job stands; the next worker asks for this student again, and for none before."""
    before = sample.events("roster")
    sample.relay.hold_after(4)
    first = hand_in(sample, key, students)
    until(lambda: sample.counts(student=students[4]) == (0, 1, 1))
    until(lambda: hand_in(sample, key, students).json()["progress"] == {"done": 4, "total": 12})

    retry = hand_in(sample, key, students)
    worker.kill()
    sample.relay.mend()
    worker.start()
    done = final(lambda: hand_in(sample, key, students))

    assert (retry.status_code, retry.json()["status"]) == (202, "running")
    assert retry.json()["id"] == done.json()["id"] == first.json()["id"]
    assert done.json()["result"]["enrolled"] == students
    assert done.json()["attempts"] == 2
    assert counts(sample, students) == {(1, 1, 1)}
    asked = sample.events("roster") - before
    assert (asked["executed"], asked["replayed.cache"]) == (12, 1)
    assert hand_in(sample, key, students).content == done.content


def test_a_service_that_is_away_does_not_fail_the_job(
    sample: Sample, worker: Worker, students: list[str], key: str, billing_again: None
) -> None:
    """It is handed back, and its next attempt goes on."""
    sample.relay.cut()
    hand_in(sample, key, students)
    until(lambda: hand_in(sample, key, students).json()["attempts"] == 1)
    until(lambda: hand_in(sample, key, students).json()["status"] == "queued")
    sample.relay.mend()

    done = final(lambda: hand_in(sample, key, students))

    assert done.json()["status"] == "succeeded"
    assert done.json()["attempts"] >= 2
    assert counts(sample, students) == {(1, 1, 1)}


def test_who_finds_no_seat_does_not_keep_the_others_out(
    sample: Sample, worker: Worker, students: list[str], key: str
) -> None:
    """The result says who was refused, and why in roster's own words."""
    course = sample.course(capacity=9)

    job = final(lambda: hand_in(sample, key, students, course)).json()

    assert job["status"] == "succeeded"
    assert job["result"]["enrolled"] == students[:9]
    assert job["result"]["refused"] == [
        {"student": student, "code": "course_full", "detail": "The course is full."}
        for student in students[9:]
    ]
    assert counts(sample, students[:9]) == {(1, 1, 1)}
    assert counts(sample, students[9:]) == {(0, 0, 0)}


def test_other_students_under_the_same_key(
    sample: Sample, worker: Worker, students: list[str], key: str
) -> None:
    """Refused while the job runs and afterwards; the import is strict."""
    hand_in(sample, key, students)
    for _ in range(2):
        refused = hand_in(sample, key, students[:3])
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
        assert refused.json()["mismatched_fields"] == ["students"]
        final(lambda: hand_in(sample, key, students))
    assert len(sample.imports(idempotency_key=key)) == 1


def test_without_a_broker(
    sample: Sample,
    worker: Worker,
    students: list[str],
    key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The service starts and enrolls; an import is refused in words, and its key stays free."""
    log = tmp_path_factory.mktemp("alone") / "enrollment.log"
    alone = Service("alone", "settings.enrollment", log)
    alone.env = sample.services["enrollment"].env | {"CELERY_BROKER_URL": ""}
    headers = {"Authorization": f"Token {sample.tokens['ann']}"}
    with alone:
        alone.wait_until_ready("/demo/counts/", {"Authorization": f"Token {sample.service_token}"})
        for path, body, status in (
            (PATH, {"course": "CS101", "students": students}, 503),
            ("/api/enrollments/", {"course": "CS101", "student": students[0]}, 201),
        ):
            reply = requests.post(
                alone.url + path, json=body, headers=headers | {"Idempotency-Key": key}, timeout=30
            )
            assert reply.status_code == status
            if status == 503:
                assert reply.json()["code"] == "no_broker"
                assert "CELERY_BROKER_URL" in reply.json()["detail"]

    assert final(lambda: hand_in(sample, key, students[1:])).json()["status"] == "succeeded"
