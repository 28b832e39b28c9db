"""What came of a key, and how far a job is, for those who only ask.

One statement each, which locks nothing and writes nothing. It goes where the records are written:
a replica may not know of them yet.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from django.db.models import Q

from idempotency.fingerprint import Fingerprint
from idempotency.layers import encryption
from idempotency.layers.clock import ServerNow
from idempotency.layers.jobs import view_of
from idempotency.models import IdempotencyRecord, Job, State
from idempotency.outcomes import Identity, JobView, StoredReply


class Standing(StrEnum):
    """What a retry would meet now."""

    #: Somebody is at work on it: a leased request, or a job that may still be queued.
    RUNNING = "running"
    #: There is a reply, although it may have been too large to keep.
    FINISHED = "finished"
    #: There was a reply; late retries are refused.
    EXPIRED = "expired"
    #: Nobody is at work on it any more: the same request, sent again, takes it over.
    ABANDONED = "abandoned"
    #: What was done is not known, and an operator has to settle it.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a key."""

    state: Standing
    #: Of the reply, which may have expired since; `None`: there was none.
    status: int | None
    created_at: datetime
    expires_at: datetime | None
    #: Whether the reply is still there to be replayed.
    replayable: bool
    #: `None` also where nobody has asked for it.
    reply: StoredReply | None
    #: The job that was started under the key, if one was.
    job: JobView | None


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A job, and whose it is."""

    owner: Identity
    operation: str
    #: `None`: no key opens what it has ended with.
    view: JobView | None


def outcome(identity: Identity, *, with_reply: bool) -> Outcome | None:
    """What came of a key; `None` where it is free: never used, given back, or forgotten.

    The claim of an atomic execution commits with its effects, so until then its key looks free.
    """
    records = (
        IdempotencyRecord.objects.using(identity.using)
        .select_related("job")
        .defer("job__arguments", "job__traceback")
        .annotate(now=ServerNow(), kept=Q(body__isnull=False))
    )
    if not with_reply:
        records = records.defer("body")
    record = records.filter(scope=identity.scope, key=identity.key).first()
    if record is None or record.state == State.RELEASED or _is_past(record.purge_at, record.now):
        return None
    state = _standing(record, record.now)
    replayable = state == Standing.FINISHED and record.kept
    job = getattr(record, "job", None)
    return Outcome(
        state=state,
        status=record.status,
        created_at=record.created_at,
        expires_at=record.expires_at,
        replayable=replayable,
        reply=_reply(record) if replayable and with_reply else None,
        job=None if job is None else view_of(job),
    )


def job(job_id: UUID, *, using: str) -> StartedJob | None:
    """A job by its id; `None` where there is none, or its key is forgotten."""
    found = (
        Job.objects.using(using)
        .select_related("record")
        .defer("arguments", "traceback", "record__headers", "record__body")
        .annotate(now=ServerNow())
        .filter(pk=job_id)
        .first()
    )
    if found is None or _is_past(found.record.purge_at, found.now):
        return None
    owner = Identity(found.record.scope, found.record.key, using)
    view = view_of(found)
    unreadable = encryption.is_sealed(view.result) or encryption.is_sealed(view.error_message)
    return StartedJob(owner, found.record.operation, None if unreadable else view)


def _standing(record: IdempotencyRecord, now: datetime) -> Standing:
    match record.state:
        case State.JOB:  # whatever its lease: the sweep sees to that
            return Standing.RUNNING
        case State.RUNNING if not _is_past(record.lease_until, now):
            return Standing.RUNNING
        case State.RUNNING:
            return Standing.UNKNOWN if record.holds else Standing.ABANDONED
        case State.ABANDONED:
            return Standing.ABANDONED
        case State.UNKNOWN:
            return Standing.UNKNOWN
        case State.FINISHED:
            # Without headers: a purge has just emptied it.
            over = _is_past(record.expires_at, now) or not record.headers
            return Standing.EXPIRED if over else Standing.FINISHED
        case _:
            raise AssertionError(f"a record in the unknown state {record.state!r}")


def _is_past(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now


def _reply(record: IdempotencyRecord) -> StoredReply:
    assert record.status is not None  # noqa: S101 - the finish has set both
    assert record.expires_at is not None  # noqa: S101
    stored = None if record.body is None else bytes(record.body)
    headers, body = encryption.unseal_reply(record.headers, stored)
    return StoredReply(
        Fingerprint.from_bytes(bytes(record.fingerprint), record.fields),
        record.status,
        tuple((name, value) for name, value in json.loads(headers)),
        body,
        expires_at=record.expires_at.timestamp(),
    )
