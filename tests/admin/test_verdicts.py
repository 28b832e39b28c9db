"""Verdicts: asked for on a list or a page, confirmed, carried out under the fence, and logged."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.urls import reverse

from idempotency.admin import confirming
from idempotency.admin.records import IdempotencyRecordAdmin
from idempotency.admin.verdicts import JOB_VERDICTS, RECORD_VERDICTS
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from idempotency.outcomes import Identity
from tests.admin.looking import JOBS, LIST, detail, url_of
from tests.factories import JobFactory, RecordFactory, StepFactory

pytestmark = pytest.mark.django_db

CODENAMES = {each.name: each.permission.partition(".")[2] for each in RECORD_VERDICTS}
#: A stage that each verdict is for, and what becomes of the record's state.
FITTING = {
    "release": ("abandoned", State.RELEASED),
    "settle": ("unknown", State.RELEASED),
    "expire": ("replayable", State.FINISHED),
    "forget": ("tombstone", None),
}
#: What else a form asks for.
GIVEN = {"settle": {"outcome": "never_happened"}}
STAGES: dict[str, dict[str, Any]] = {
    "running": {"leased": True},
    "lapsed": {"lapsed": True},
    "held": {"lapsed": True, "holds": True},
    "job": {"pending": True},
    "released": {"released": True},
    "abandoned": {"abandoned": True},
    "unknown": {"unknown": True},
    "replayable": {},
    "tombstone": {"tombstone": True},
    "forgotten": {"forgotten": True},
}
#: The stages that each verdict is for.
FITS = {
    "release": {"lapsed", "abandoned"},
    "settle": {"lapsed", "held", "abandoned", "unknown"},
    "expire": {"replayable"},
    "forget": set(STAGES) - {"running", "job"},
}


def url(name: str, *rows: Any) -> str:
    model = "job" if rows and isinstance(rows[0], Job) else "idempotencyrecord"
    path = reverse(f"admin:idempotency_{model}_verdict", args=[name])
    return f"{path}?{'&'.join(f'row={row.pk}' for row in rows)}"


def told(response: Any) -> list[str]:
    """What the operator is told."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def asked(client: Client, name: str, *rows: Any) -> list[str]:
    """What the confirmation sends along for the rows that it is for."""
    response = client.get(url(name, *rows))
    assert response.status_code == 200
    return re.findall(r'name="row" value="([^"]+)"', response.content.decode())


def confirm(client: Client, name: str, *rows: Any, **given: Any) -> Any:
    """Go through the confirmation of a verdict on rows."""
    data = {"row": asked(client, name, *rows)} | (given or GIVEN.get(name, {}))
    return client.post(url(name, *rows), data)


def made_in(stage: str) -> IdempotencyRecord:
    return RecordFactory.create(**STAGES[stage])


def now(record: IdempotencyRecord) -> Any:
    return IdempotencyRecord.objects.filter(pk=record.pk).first()


# Who may give which verdict


@pytest.mark.parametrize("name", FITTING)
def test_a_verdict_takes_a_permission_of_its_own(client: Client, may: Any, name: str) -> None:
    record = made_in(FITTING[name][0])
    may("view_idempotencyrecord", "view_stored_reply", "view_job", "cancel_job")
    may(*(each for verdict, each in CODENAMES.items() if verdict != name))
    data = {"row": f"{record.pk}:{record.attempt}", **GIVEN.get(name, {})}
    assert client.get(url(name, record)).status_code == 403
    assert client.post(url(name, record), data).status_code == 403
    assert url(name, record) not in detail(client, record)
    assert f'<option value="{name}">' not in client.get(reverse(LIST)).content.decode()
    assert now(record).attempt == record.attempt


@pytest.mark.parametrize("name", FITTING)
def test_whoever_may_not_look_may_not_judge(client: Client, may: Any, name: str) -> None:
    may(*CODENAMES.values())
    assert client.get(url(name, made_in(FITTING[name][0]))).status_code == 403


@pytest.mark.parametrize("name", FITTING)
@pytest.mark.parametrize("stage", STAGES)
def test_a_page_offers_what_fits_and_nothing_else(
    viewer: Client, may: Any, name: str, stage: str
) -> None:
    may(CODENAMES[name])
    record = made_in(stage)
    link = f'<a href="{url(name, record)}">'
    assert (link in detail(viewer, record)) == (stage in FITS[name])


# A verdict, from the question to the log


@pytest.mark.parametrize("name", FITTING)
def test_a_verdict_is_carried_out_and_logged(
    viewer: Client, staff: User, may: Any, name: str
) -> None:
    may(CODENAMES[name])
    stage, becomes = FITTING[name]
    record = made_in(stage)
    digest = Identity(record.scope, record.key, "default").digest
    response = confirm(viewer, name, record)
    left = now(record)
    if becomes is None:
        assert left is None
        assert response["Location"] == reverse(LIST)
    else:
        assert (left.state, left.attempt > record.attempt) == (becomes, True)
        assert response["Location"] == url_of(record)
    assert len(told(response)) == 1
    assert told(response)[0].startswith("1 ")
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (staff, str(record.pk))
    assert entry.action_flag == (DELETION if becomes is None else CHANGE)
    assert entry.object_repr == f"{record.operation} {digest}"
    assert record.key not in entry.object_repr + entry.change_message
    if left is not None:
        history = viewer.get(url_of(record).replace("/change/", "/history/"))
        assert entry.change_message in history.content.decode()


@pytest.mark.parametrize("name", FITTING)
def test_a_list_asks_about_the_chosen_rows(viewer: Client, may: Any, name: str) -> None:
    may(CODENAMES[name])
    stage, _becomes = FITTING[name]
    records = [made_in(stage) for _ in range(3)]
    chosen = {"action": name, "_selected_action": [each.pk for each in records[:2]]}
    response = viewer.post(reverse(LIST), chosen)
    values = re.findall(
        r'name="row" value="([^"]+)"', viewer.get(response["Location"]).content.decode()
    )
    assert sorted(values) == sorted(f"{each.pk}:{each.attempt}" for each in records[:2])
    done = viewer.post(response["Location"], {"row": values, **GIVEN.get(name, {})})
    assert [message[:2] for message in told(done)] == ["2 "]
    assert LogEntry.objects.count() == 2
    assert now(records[2]).attempt == records[2].attempt


@pytest.mark.parametrize("name", FITTING)
def test_a_question_changes_nothing(viewer: Client, may: Any, name: str) -> None:
    may(CODENAMES[name])
    record = made_in(FITTING[name][0])
    asked(viewer, name, record)
    viewer.post(reverse(LIST), {"action": name, "_selected_action": record.pk})
    assert now(record).attempt == record.attempt
    assert not LogEntry.objects.exists()


def test_a_verdict_needs_the_pages_own_token(viewer: Client, staff: User, may: Any) -> None:
    may("forget_record")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(staff)
    record = made_in("tombstone")
    forged = strict.post(url("forget", record), {"row": f"{record.pk}:{record.attempt}"})
    assert forged.status_code == 403
    assert now(record) is not None


# What is left alone


@pytest.mark.parametrize(
    ("name", "stage"),
    [(name, stage) for name in FITTING for stage in STAGES if stage not in FITS[name]],
)
def test_what_does_not_fit_is_shown_and_left_alone(
    viewer: Client, may: Any, name: str, stage: str
) -> None:
    """Also where somebody sends it all the same: a live lease is never taken away."""
    may(CODENAMES[name])
    record = made_in(stage)
    page = viewer.get(url(name, record)).content.decode()
    assert "There is nothing that this could be done to." in page
    assert f'<a href="{url_of(record)}">' in page
    before = vars(now(record))
    data = {"row": f"{record.pk}:{record.attempt}", **GIVEN.get(name, {})}
    response = viewer.post(url(name, record), data)
    assert vars(now(record)) | {"_state": None} == before | {"_state": None}
    assert "was left alone" in told(response)[0]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("name", FITTING)
def test_what_has_changed_since_it_was_shown_is_left_alone(
    viewer: Client, may: Any, name: str
) -> None:
    may(CODENAMES[name])
    record = made_in(FITTING[name][0])
    data = {"row": asked(viewer, name, record), **GIVEN.get(name, {})}
    IdempotencyRecord.objects.update(attempt=record.attempt + 5)
    response = viewer.post(url(name, record), data)
    assert now(record).attempt == record.attempt + 5
    assert [message.endswith(f"It is: {record_stage(name)}.") for message in told(response)] == [
        True
    ]
    assert not LogEntry.objects.exists()


def record_stage(name: str) -> str:
    return {"unknown": "outcome unknown"}.get(FITTING[name][0], FITTING[name][0])


def test_the_fence_holds_between_the_look_and_the_verdict(
    viewer: Client, may: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another operator comes in between: only the statement itself can tell."""
    may("expire_record")
    record = made_in("replayable")
    data = {"row": asked(viewer, "expire", record)}
    look = IdempotencyRecordAdmin.token_of

    def late(self: Any, row: Any) -> int:
        IdempotencyRecord.objects.update(attempt=row.attempt + 1)
        return look(self, row)

    monkeypatch.setattr(IdempotencyRecordAdmin, "token_of", late)
    response = viewer.post(url("expire", record), data)
    assert now(record).body is not None
    assert "was left alone" in told(response)[0]


def test_what_is_gone_meanwhile_is_said_to_be(viewer: Client, may: Any) -> None:
    may("forget_record")
    records = [made_in("tombstone") for _ in range(2)]
    data = {"row": asked(viewer, "forget", *records)}
    records[0].delete()
    response = viewer.post(url("forget", *records), data)
    assert told(response)[0].endswith("is not there any more.")
    assert told(response)[1].startswith("1 key is forgotten")


def test_no_verdict_goes_without_its_entry_in_the_log(
    viewer: Client, may: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    may("forget_record")
    record = made_in("tombstone")
    data = {"row": asked(viewer, "forget", record)}

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the log is full")

    monkeypatch.setattr(LogEntry, "save", fail)
    with pytest.raises(RuntimeError):
        viewer.post(url("forget", record), data)
    assert now(record) is not None


def test_more_than_can_be_confirmed_is_refused(
    viewer: Client, may: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirming, "MOST", 2)
    may("expire_record")
    records = [made_in("replayable") for _ in range(3)]
    chosen = {"action": "expire", "_selected_action": records[0].pk, "select_across": "1"}
    assert told(viewer.post(reverse(LIST), chosen)) == ["At most 2 at once: choose fewer."]
    assert viewer.get(url("expire", *records)).status_code == 400
    data = {"row": [f"{each.pk}:1" for each in records]}
    assert viewer.post(url("expire"), data).status_code == 400


@pytest.mark.parametrize(
    "row", ["1", "1:", ":", "1:x", "x:1", "1:²", "1:-1", f"{10**20}:1", f"1:{10**20}"]
)
def test_rows_that_no_page_has_sent_are_refused(viewer: Client, may: Any, row: str) -> None:
    may("expire_record")
    assert viewer.post(url("expire"), {"row": row}).status_code == 400


def test_there_is_no_other_verdict(admin_client: Client) -> None:
    assert admin_client.get(url("delete")).status_code == 404


def test_a_popup_offers_no_verdicts(admin_client: Client) -> None:
    RecordFactory.create()
    assert "<option" not in admin_client.get(reverse(LIST), {"_popup": "1"}).content.decode()


def test_a_confirmation_costs_a_fixed_number_of_queries(
    viewer: Client, may: Any, django_assert_num_queries: Any
) -> None:
    may("expire_record")
    records = [made_in("replayable") for _ in range(5)]
    with django_assert_num_queries(5):  # session, user, permissions (2), the records
        viewer.get(url("expire", *records))


# Forgetting takes all along


def test_what_is_forgotten_takes_its_job_and_steps_along(viewer: Client, may: Any) -> None:
    may("forget_record")
    job, other = JobFactory.create(succeeded=True), JobFactory.create(succeeded=True)
    for each in (job, other):
        StepFactory.create(record=each.record)
    confirm(viewer, "forget", job.record)
    assert list(Job.objects.all()) == [other]
    assert list(other.record.steps.model.objects.values_list("record", flat=True)) == [
        other.record.pk
    ]


# The caches


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["expire", "forget"])
@pytest.mark.parametrize("atomic_requests", [False, True])
def test_the_operator_is_told_where_a_cache_may_still_serve_the_reply(
    admin_client: Client,
    name: str,
    atomic_requests: bool,
    settings: Any,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, also where every request is one transaction: the verdict has one of its own."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic_requests)
    configured = dict(settings.CACHES["default"])
    settings.CACHES = {"default": configured | {"LOCATION": f"redis://127.0.0.1:{closed_port}/0"}}
    response = confirm(admin_client, name, made_in("replayable"))
    assert "may still be served until" in told(response)[0]
    assert told(response)[1].startswith("1 ")


# Jobs


def test_every_verdict_is_tested() -> None:
    assert set(FITTING) == set(FITS) == {each.name for each in RECORD_VERDICTS}
    assert [each.name for each in JOB_VERDICTS] == ["cancel"]


@pytest.mark.parametrize("traits", [{}, {"running": True}], ids=["queued", "running"])
def test_a_job_is_cancelled(job_viewer: Client, may: Any, traits: dict[str, Any]) -> None:
    job = JobFactory.create(**traits)
    assert job_viewer.get(url("cancel", job)).status_code == 403
    may("cancel_job")
    assert f'<a href="{url("cancel", job)}">Cancel</a>' in detail(job_viewer, job)
    response = confirm(job_viewer, "cancel", job)
    assert response["Location"] == url_of(job)
    assert told(response) == ["1 job is cancelled."]
    assert Job.objects.get().status == JobStatus.CANCELLED
    assert IdempotencyRecord.objects.get().state == State.FINISHED
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.change_message) == (str(job), "Cancelled.")


def test_a_job_that_has_ended_is_left_alone(job_viewer: Client, may: Any) -> None:
    may("cancel_job")
    job = JobFactory.create(running=True)
    data = {"row": asked(job_viewer, "cancel", job)}
    Job.objects.update(status=JobStatus.SUCCEEDED)
    IdempotencyRecord.objects.update(state=State.FINISHED)
    response = job_viewer.post(url("cancel", job), data)
    assert told(response)[0].endswith("It is: succeeded.")
    assert "There is nothing" in job_viewer.get(url("cancel", job)).content.decode()
    assert not LogEntry.objects.exists()


def test_jobs_are_cancelled_from_their_list(job_viewer: Client, may: Any) -> None:
    may("cancel_job")
    jobs = JobFactory.create_batch(2)
    chosen = {"action": "cancel", "_selected_action": [str(job.pk) for job in jobs]}
    response = job_viewer.post(reverse(JOBS), chosen)
    assert "2 jobs are cancelled." in told(confirm(job_viewer, "cancel", *jobs))
    assert all(str(job.pk) in response["Location"] for job in jobs)
