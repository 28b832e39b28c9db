"""What an operator says about an outcome that is not known, and what is made of it."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from tests.factories import JobFactory, RecordFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def judge(viewer: Client, may: Any) -> Any:
    """Settles a record by what the form is given."""
    may("settle_record")
    url = reverse("admin:idempotency_idempotencyrecord_verdict", args=["settle"])

    def judge(record: IdempotencyRecord, **given: Any) -> Any:
        return viewer.post(url, {"row": f"{record.pk}:{record.attempt}", **given})

    return judge


def test_what_happened_is_the_reply_from_now_on(judge: Any) -> None:
    record = RecordFactory.create(unknown=True)
    judge(record, outcome="happened", status="201", body=' {"charge": "ch_12", "to": "Zoë"} ')
    settled = IdempotencyRecord.objects.get()
    assert (settled.state, settled.status, settled.attempt) == (State.FINISHED, 201, 3)
    assert json.loads(bytes(settled.body)) == {"charge": "ch_12", "to": "Zoë"}
    entry = LogEntry.objects.get()
    assert entry.change_message == "Settled: it happened, with status 201."


def test_what_never_happened_runs_again(judge: Any) -> None:
    judge(RecordFactory.create(unknown=True), outcome="never_happened", status="201", body="{")
    assert IdempotencyRecord.objects.get().state == State.RELEASED
    assert LogEntry.objects.get().change_message == "Settled: it never happened."


@pytest.mark.parametrize("body", ["null", "0", "[]", '""', '{"deep": {"er": [1.5]}}'])
def test_every_json_is_a_body(judge: Any, body: str) -> None:
    judge(RecordFactory.create(unknown=True), outcome="happened", status="200", body=body)
    assert json.loads(bytes(IdempotencyRecord.objects.get().body)) == json.loads(body)


@pytest.mark.parametrize("status", ["204", "205", "304"])
def test_a_reply_without_a_body_has_none(judge: Any, status: str) -> None:
    judge(RecordFactory.create(unknown=True), outcome="happened", status=status, body="")
    settled = IdempotencyRecord.objects.get()
    assert (settled.status, bytes(settled.body), settled.headers) == (int(status), b"", "[]")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, {"outcome"}),
        ({"outcome": "maybe"}, {"outcome"}),
        ({"outcome": "happened", "body": "{}"}, {"status"}),
        ({"outcome": "happened", "status": "199", "body": "{}"}, {"status"}),
        ({"outcome": "happened", "status": "500", "body": "{}"}, {"status"}),
        ({"outcome": "happened", "status": "202", "body": "{}"}, {"status"}),
        ({"outcome": "happened", "status": "204", "body": "{}"}, {"body"}),
        ({"outcome": "happened", "status": "200", "body": ""}, {"body"}),
        ({"outcome": "happened", "status": "200", "body": "{'a': 1}"}, {"body"}),
        ({"outcome": "happened", "status": "200", "body": "NaN"}, {"body"}),
        ({"outcome": "happened", "status": "200", "body": "[" * 100_000}, {"body"}),
        ({"outcome": "happened", "status": "200", "body": '"' + "x" * 2**20 + '"'}, {"body"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_reply_is_told_and_changes_nothing(
    judge: Any, given: dict[str, str], wrong: set[str]
) -> None:
    record = RecordFactory.create(unknown=True)
    response = judge(record, **given)
    assert set(response.context["form"].errors) == wrong
    assert f'value="{record.pk}:{record.attempt}"' in response.content.decode()
    assert IdempotencyRecord.objects.get().state == State.UNKNOWN
    assert not LogEntry.objects.exists()


def test_what_happened_is_the_result_of_a_job(judge: Any) -> None:
    held = JobFactory.create(held=True)
    judge(held.record, outcome="happened", status="200", body='{"enrolled": 9}')
    job = Job.objects.get()
    assert (job.status, job.result) == (JobStatus.SUCCEEDED, '{"enrolled":9}')


def test_a_job_without_a_document_is_told_to_be_none(judge: Any) -> None:
    """A status that has no room for the job's document, which is the reply."""
    held = JobFactory.create(held=True)
    response = judge(held.record, outcome="happened", status="204")
    (message,) = get_messages(response.wsgi_request)
    assert "was left alone" in str(message)
    assert "which status 204 cannot have" in str(message)
    assert IdempotencyRecord.objects.get().state == State.UNKNOWN
    assert not LogEntry.objects.exists()


def test_a_job_that_never_happened_is_queued_again(judge: Any) -> None:
    judge(JobFactory.create(held=True).record, outcome="never_happened")
    assert Job.objects.get().status == JobStatus.QUEUED
