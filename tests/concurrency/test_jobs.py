"""Crowds around one job: retries over several servers, deliveries to several workers."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from idempotency.models import IdempotencyRecord, Job, JobStatus
from tests.concurrent import PATIENCE, until
from tests.jobs import booked
from tests.served import gunicorn
from tests.worked import worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("redis_db"),
]

KEYS, RETRIES, DELIVERIES = 5, 10, 20


def post(origin, key):
    return requests.post(
        f"{origin}/jobs/",
        json={"task": "book", "name": key},
        headers={"Idempotency-Key": key},
        timeout=PATIENCE,
    )


def test_storms_of_retries_and_deliveries_run_each_job_once(broker, tmp_path):
    """Two servers of two processes start them, two workers of three get each message often."""
    keys = [f"key-{number}" for number in range(KEYS)]
    run_job = broker.app.tasks["idempotency.run_job"]
    with (
        ThreadPoolExecutor(16) as crowd,
        gunicorn(tmp_path / "web.log", workers=3, environment={}) as origin,
        worker(tmp_path / "one.log", concurrency=3),
        worker(tmp_path / "two.log", concurrency=3),
    ):
        asked = [crowd.submit(post, origin, key) for _ in range(RETRIES) for key in keys]
        answers = [future.result() for future in asked]
        for job in Job.objects.all():
            for _ in range(DELIVERIES):
                run_job.delay(str(job.pk), "default")
        until(lambda: set(Job.objects.values_list("status", flat=True)) == {JobStatus.SUCCEEDED})
        until(lambda: broker.messages() == 0)
        final = {key: {post(origin, key).content for _ in range(3)} for key in keys}
    assert booked() == dict.fromkeys(keys, 1)
    assert Job.objects.count() == IdempotencyRecord.objects.count() == KEYS
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}
    assert all(len(replies) == 1 for replies in final.values())
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_progress"
        else:
            assert answer.status_code in (200, 202)
    assert len({answer.json()["id"] for answer in answers if answer.ok}) == KEYS


def test_one_message_delivered_twenty_times_at_once_runs_once(broker, gates, tmp_path):
    """Some are there before any worker is, the others come while the job runs."""
    with gunicorn(tmp_path / "web.log", workers=1, environment={}) as origin:
        job_id = post(origin, "Ada").json()["id"]
    run_job = broker.app.tasks["idempotency.run_job"]
    for _ in range(DELIVERIES // 2 - 1):
        run_job.delay(job_id, "default")
    gates.close("effects")
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    with worker(logs[0], concurrency=2), worker(logs[1], concurrency=2):
        gates.reached("effects")
        for _ in range(DELIVERIES // 2):
            run_job.delay(job_id, "default")
        until(lambda: ignored(logs) == DELIVERIES - 1)
        assert booked() == {}
        gates.open("effects")
        until(lambda: Job.objects.get().status == JobStatus.SUCCEEDED)
    assert (booked(), Job.objects.get().attempts) == ({"Ada": 1}, 1)


def ignored(logs):
    """How many messages came for nothing."""
    return sum(log.read_text().count("idempotency job_ignored") for log in logs)
