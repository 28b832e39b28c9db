"""The life of a record or a job as a timeline: what has happened, what is now, what is to come."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from idempotency.admin.stages import STAGES, stage_of
from idempotency.models import IdempotencyRecord, Job, JobStatus, State, Step


class Tense(StrEnum):
    """How a moment stands to now."""

    PAST = "past"
    NOW = "now"
    FUTURE = "future"


@dataclass(frozen=True)
class Moment:
    """One entry of a timeline."""

    label: Any
    #: `None`: the time is not known.
    at: datetime | None
    tense: Tense
    note: Any = ""


#: What a job's status means to an operator.
_MEANINGS = {
    JobStatus.QUEUED: _("Its message is on the way to a worker."),
    JobStatus.RUNNING: _("A worker has it, and renews its lease."),
    JobStatus.SUCCEEDED: _("Its effects and its result are committed."),
    JobStatus.FAILED: _(
        "What was not committed in steps is undone; a new attempt needs a new key."
    ),
    JobStatus.CANCELLED: _("What was not committed in steps is undone."),
}

#: Label, moment and note; without a moment, it goes where it stands.
_Entry = tuple[Any, datetime | None, Any]


def life_of_record(
    record: IdempotencyRecord, job: Job | None, steps: Sequence[Step], now: datetime
) -> list[Moment]:
    """A record's life; `steps` are those that its page shows, `now` is by the database's clock."""
    entries: list[_Entry] = [(_("Claimed"), record.created_at, "")]
    entries += _begun(job)
    entries += _attempts(record, steps)
    if record.completed_at is not None:
        label = _("Completed with status %(status)s") % {"status": record.status}
        entries.append((label, record.completed_at, ""))
    elif job is not None and job.finished_at is not None:  # and held for an operator
        entries.append((_("Job failed"), job.finished_at, ""))
    stage = STAGES[stage_of(record, now)]
    here = Moment(_("Now: %(stage)s") % {"stage": stage.label}, now, Tense.NOW, stage.meaning)
    return _in_order([*entries, *_lease(record, job, now), *_ends(record, now)], here, now)


def life_of_job(job: Job, record: IdempotencyRecord | None, now: datetime) -> list[Moment]:
    """A job's life; `record` is the one that it stands behind, if it is still there."""
    entries: list[_Entry] = [
        (_("Queued"), job.created_at, _("Committed together with the claim of its key."))
    ]
    entries += _begun(job)
    if job.finished_at is not None:
        label = _("Ended: %(status)s") % {"status": job.get_status_display()}
        entries.append((label, job.finished_at, job.error_code))
    if record is not None:
        entries += [*_lease(record, job, now), *_ends(record, now)]
    meaning = _MEANINGS[JobStatus(job.status)]
    if record is not None and record.state == State.UNKNOWN:
        meaning = _("What it did outside is not known: its record waits for a verdict.")
    elif record is not None and job.status == JobStatus.RUNNING and _has_lapsed(record, now):
        meaning = _("Its worker gave no sign of life in time: the next sweep sees to it.")
    label = _("Now: %(stage)s") % {"stage": job.get_status_display()}
    here = Moment(label, now, Tense.NOW, meaning)
    return _in_order(entries, here, now)


def _in_order(entries: Iterable[_Entry], here: Moment, now: datetime) -> list[Moment]:
    """By time; what has none stays behind the entry that it was put behind."""
    past: list[tuple[datetime, Moment]] = []
    future: list[tuple[datetime, Moment]] = []
    last = datetime.min.replace(tzinfo=now.tzinfo)
    for label, at, note in entries:
        last = at or last
        is_past = last <= now
        moment = Moment(label, at, Tense.PAST if is_past else Tense.FUTURE, note)
        (past if is_past else future).append((last, moment))
    ordered = [
        [moment for _at, moment in sorted(part, key=lambda each: each[0])]
        for part in (past, future)
    ]
    return [*ordered[0], here, *ordered[1]]


def _begun(job: Job | None) -> list[_Entry]:
    if job is None or job.started_at is None:
        return []
    again = ngettext("%(count)d attempt", "%(count)d attempts", job.attempts)
    return [(_("First begun by a worker"), job.started_at, again % {"count": job.attempts})]


def _attempts(record: IdempotencyRecord, steps: Sequence[Step]) -> list[_Entry]:
    """The changes of owner, as far as they have left traces: in the token, and in steps."""
    entries: list[_Entry] = []
    if record.attempt > 1:
        changes = record.attempt - 1
        label = ngettext("Changed hands %(count)d time", "Changed hands %(count)d times", changes)
        note = _(
            "Begun, taken over, given back or settled; when is not kept. Fencing token: %(token)d."
        )
        entries.append((label % {"count": changes}, None, note % {"token": record.attempt}))
    for attempt in sorted({step.attempt for step in steps}):
        ours = [step for step in steps if step.attempt == attempt]
        last = max(ours, key=lambda step: step.position)
        done = ngettext("%(count)d step done", "%(count)d steps done", len(ours))
        note = _("Under fencing token %(token)d, the last of them %(name)s.")
        entries.append(
            (
                done % {"count": len(ours)},
                last.created_at,
                note % {"token": attempt, "name": last.name},
            )
        )
    return entries


def _lease(record: IdempotencyRecord, job: Job | None, now: datetime) -> list[_Entry]:
    until = record.lease_until
    if until is None or record.state not in (State.RUNNING, State.JOB):
        return []
    if job is not None and job.status == JobStatus.QUEUED:
        return [(_("The sweep sends its message again"), until, _("Unless a worker begins it."))]
    if _has_lapsed(record, now):
        return [(_("The lease ended"), until, _("No sign of life since."))]
    return [(_("The lease ends"), until, _("Unless its owner, who is alive, renews it."))]


def _has_lapsed(record: IdempotencyRecord, now: datetime) -> bool:
    return record.lease_until is not None and record.lease_until <= now


def _ends(record: IdempotencyRecord, now: datetime) -> list[_Entry]:
    entries: list[_Entry] = []
    if record.expires_at is not None:
        over = record.expires_at <= now
        label = _("The reply expired") if over else _("The reply expires")
        entries.append((label, record.expires_at, _("Late retries are refused from then on.")))
    if record.purge_at is not None:
        label = _("The key was forgotten") if record.purge_at <= now else _("The key is forgotten")
        entries.append((label, record.purge_at, _("A request with it is a new one from then on.")))
    return entries
