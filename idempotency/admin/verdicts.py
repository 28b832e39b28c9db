"""The verdicts on records and on jobs: for which of them they are, and what they say and do."""

from typing import Any

from django.contrib.admin.models import CHANGE, DELETION
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from idempotency import settlement
from idempotency.admin.forms import HAPPENED, SettleForm
from idempotency.admin.stages import stage_of
from idempotency.admin.verdict import Verdict
from idempotency.jobs import cancel_job
from idempotency.models import IdempotencyRecord, Job, JobStatus
from idempotency.settlement import OnStale

#: Stages in which somebody is at work on the key.
_AT_WORK = frozenset({"running", "job"})


def _stage(record: Any) -> str:
    return stage_of(record, record.now)


def _seen(record: IdempotencyRecord) -> dict[str, Any]:
    """Which record it is, as the operator has seen it."""
    return {"attempt": record.attempt, "using": record._state.db}


def _release(record: IdempotencyRecord, data: dict[str, Any], on_stale: OnStale) -> bool:
    return settlement.release(record.scope, record.key, **_seen(record))


def _settle(record: IdempotencyRecord, data: dict[str, Any], on_stale: OnStale) -> bool:
    if data["outcome"] != HAPPENED:
        return settlement.it_never_happened(record.scope, record.key, **_seen(record))
    reply = {"status": data["status"], "body": data["body"]}
    try:
        return settlement.it_happened(record.scope, record.key, **reply, **_seen(record))
    except ValueError as error:  # what the form cannot know: a job stands behind it
        raise ValidationError(str(error)) from error


def _said(data: dict[str, Any]) -> str:
    if data["outcome"] != HAPPENED:
        return "Settled: it never happened."
    return f"Settled: it happened, with status {data['status']}."


def _expire(record: IdempotencyRecord, data: dict[str, Any], on_stale: OnStale) -> bool:
    return settlement.expire(record.scope, record.key, on_stale=on_stale, **_seen(record))


def _forget(record: IdempotencyRecord, data: dict[str, Any], on_stale: OnStale) -> bool:
    return settlement.forget(record.scope, record.key, on_stale=on_stale, **_seen(record))


RECORD_VERDICTS = (
    Verdict(
        name="release",
        permission="idempotency.release_record",
        label=_("Release"),
        consequence=_(
            "The execution is gone and left no outcome. The next retry runs it, a job the next"
            " sweep; steps that are done are not repeated. Whoever may still be at work under the"
            " key writes nothing any more."
        ),
        done=ngettext_lazy(
            "%(count)d key is released: the next retry runs it.",
            "%(count)d keys are released: the next retries run them.",
            "count",
        ),
        fits=lambda record: (
            _stage(record) == "abandoned" or (_stage(record) == "lapsed" and not record.holds)
        ),
        carry_out=_release,
        logged=lambda data: "Released.",
        flag=CHANGE,
    ),
    Verdict(
        name="settle",
        permission="idempotency.settle_record",
        label=_("Settle"),
        consequence=_(
            "Look up first, where it would have had its effects, whether it happened. If it did,"
            " every retry gets the reply that you give; if it did not, the next retry runs it."
        ),
        done=ngettext_lazy(
            "%(count)d outcome is settled.", "%(count)d outcomes are settled.", "count"
        ),
        fits=lambda record: _stage(record) in {"unknown", "abandoned", "lapsed"},
        carry_out=_settle,
        logged=_said,
        flag=CHANGE,
        form=SettleForm,
        is_dangerous=True,
    ),
    Verdict(
        name="expire",
        permission="idempotency.expire_record",
        label=_("Expire now"),
        consequence=_(
            "The stored reply is deleted, and cannot be had back. Late retries are refused with"
            " idempotency_key_expired until the key is forgotten; nothing runs again."
        ),
        done=ngettext_lazy(
            "%(count)d reply has expired: retries are refused.",
            "%(count)d replies have expired: retries are refused.",
            "count",
        ),
        fits=lambda record: _stage(record) == "replayable",
        carry_out=_expire,
        logged=lambda data: "Expired the stored reply.",
        flag=CHANGE,
    ),
    Verdict(
        name="forget",
        permission="idempotency.forget_record",
        label=_("Forget"),
        consequence=_(
            "The record is deleted, with its job and its steps, and the key is new again: a client"
            " that still retries has everything done a second time, a card charged twice for"
            " instance. To stop the replay of a wrong reply, expire it instead."
        ),
        done=ngettext_lazy(
            "%(count)d key is forgotten: a request with it is a new one.",
            "%(count)d keys are forgotten: requests with them are new ones.",
            "count",
        ),
        fits=lambda record: _stage(record) not in _AT_WORK,
        carry_out=_forget,
        logged=lambda data: "Forgot the key.",
        flag=DELETION,
        is_dangerous=True,
    ),
)


def _cancel(job: Job, data: dict[str, Any], on_stale: OnStale) -> bool:
    return cancel_job(job.pk, using=job._state.db)


JOB_VERDICTS = (
    Verdict(
        name="cancel",
        permission="idempotency.cancel_job",
        label=_("Cancel"),
        consequence=_(
            "A job that is queued is never begun. One that is running is told when it next reports"
            " progress or begins a step, and commits nothing from now on; steps that are done stay"
            " done. Every retry learns that it was cancelled: a new attempt needs a new key."
        ),
        done=ngettext_lazy("%(count)d job is cancelled.", "%(count)d jobs are cancelled.", "count"),
        fits=lambda job: job.status in {JobStatus.QUEUED, JobStatus.RUNNING},
        carry_out=_cancel,
        logged=lambda data: "Cancelled.",
        flag=CHANGE,
        is_dangerous=True,
    ),
)
