"""The life of records and jobs, as their pages tell it."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from idempotency.admin.timeline import Tense
from tests.admin.looking import detail, response_of
from tests.factories import JobFactory, RecordFactory, StepFactory, from_now

pytestmark = pytest.mark.django_db

PAST, NOW, FUTURE = Tense


def life(client: Client, row: Any) -> list[tuple[str, Tense]]:
    return [(str(each.label), each.tense) for each in response_of(client, row).context["life"]]


LIVES: dict[str, list[tuple[str, Tense]]] = {
    "leased": [("Claimed", PAST), ("Now: running", NOW), ("The lease ends", FUTURE)],
    "lapsed": [("Claimed", PAST), ("The lease ended", PAST), ("Now: lease over", NOW)],
    "unknown": [
        ("Claimed", PAST),
        ("Changed hands 1 time", PAST),
        ("Now: outcome unknown", NOW),
    ],
    "released": [
        ("Claimed", PAST),
        ("Changed hands 1 time", PAST),
        ("Now: released", NOW),
        ("The key is forgotten", FUTURE),
    ],
    "tombstone": [
        ("Claimed", PAST),
        ("Completed with status 201", PAST),
        ("The reply expired", PAST),
        ("Now: tombstone", NOW),
        ("The key is forgotten", FUTURE),
    ],
    "forgotten": [
        ("Claimed", PAST),
        ("Completed with status 201", PAST),
        ("The reply expired", PAST),
        ("The key was forgotten", PAST),
        ("Now: forgotten", NOW),
    ],
}


@pytest.mark.parametrize("stage", LIVES)
def test_a_life_tells_what_was_what_is_and_what_is_to_come(viewer: Client, stage: str) -> None:
    aged = {} if stage in ("tombstone", "forgotten") else {"age": timedelta(hours=1)}
    record = RecordFactory.create(**{stage: True}, **aged)
    assert life(viewer, record) == LIVES[stage]


def test_steps_tell_when_an_attempt_was_at_work(viewer: Client) -> None:
    record = RecordFactory.create(abandoned=True, attempt=3, age=timedelta(hours=1))
    for position, attempt in enumerate((1, 1, 2)):
        moment = from_now(minutes=position - 30)
        StepFactory.create(record=record, position=position, attempt=attempt, created_at=moment)
    told = life(viewer, record)
    assert told[:4] == [
        ("Claimed", PAST),
        ("Changed hands 2 times", PAST),
        ("2 steps done", PAST),
        ("1 step done", PAST),
    ]
    assert "Under fencing token 2, the last of them step.2." in detail(viewer, record)


def test_a_record_tells_of_its_job(viewer: Client) -> None:
    job = JobFactory.create(running=True, created_at=from_now(minutes=-5))
    told = life(viewer, job.record)
    assert ("First begun by a worker", PAST) in told
    assert told[-2:] == [("Now: job", NOW), ("The lease ends", FUTURE)]
    held = JobFactory.create(held=True)
    assert ("Job failed", PAST) in life(viewer, held.record)


def test_a_life_is_a_list_with_times_that_machines_can_read(viewer: Client) -> None:
    page = detail(viewer, RecordFactory.create())
    told = page.partition('<ol class="idempotency-life">')[2].partition("</ol>")[0]
    assert told.count("<li") == told.count("<time datetime=") == 5
    assert told.count('aria-current="time"') == 1
    assert told.count("To come:") == 2


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        (
            {},
            [("Queued", PAST), ("Now: queued", NOW), ("The sweep sends its message again", FUTURE)],
        ),
        (
            {"running": True},
            [
                ("Queued", PAST),
                ("First begun by a worker", PAST),
                ("Now: running", NOW),
                ("The lease ends", FUTURE),
            ],
        ),
        (
            {"failed": True},
            [
                ("Queued", PAST),
                ("First begun by a worker", PAST),
                ("Ended: failed", PAST),
                ("Now: failed", NOW),
                ("The reply expires", FUTURE),
                ("The key is forgotten", FUTURE),
            ],
        ),
    ],
    ids=["queued", "running", "failed"],
)
def test_a_job_has_a_life_of_its_own(
    job_viewer: Client, traits: dict[str, Any], told: list[tuple[str, Tense]]
) -> None:
    assert life(job_viewer, JobFactory.create(**traits)) == told


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        ({"running": True, "record__lapsed": True, "record__state": "job"}, "the next sweep"),
        ({"running": True}, "renews its lease"),
        ({"held": True}, "waits for a verdict"),
        ({"cancelled": True}, "is undone"),
    ],
)
def test_a_job_tells_what_its_status_means(
    job_viewer: Client, traits: dict[str, Any], told: str
) -> None:
    assert told in detail(job_viewer, JobFactory.create(**traits))


def test_a_jobs_progress_is_a_bar_and_a_text(job_viewer: Client) -> None:
    running = detail(job_viewer, JobFactory.create(running=True, done=1234, total=5000))
    assert 'max="5000" value="1234"' in running
    assert "<progress" not in detail(job_viewer, JobFactory.create())
