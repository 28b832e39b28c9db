"""The job rows: outbox, progress and result of long-running work.

Who may write one is told by its record's lease and fencing token, so whoever changes a job locks
the record first.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from django.db import connections, transaction
from django.db.models import F
from django.db.models.functions import Coalesce

from idempotency.conf import conf, seconds
from idempotency.fingerprint import Fingerprint
from idempotency.layers import encryption, leases
from idempotency.layers.clock import ServerNow, after
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from idempotency.outcomes import (
    Attached,
    Candidate,
    Claimed,
    Identity,
    JobEnding,
    JobOrder,
    JobRun,
    JobView,
)

#: How often a job is begun before its workers' deaths count as its own doing. 5: a deploy or two
#: and a machine that fails are survived, and what kills its worker stops after some minutes.
MAX_ATTEMPTS: Final = 5
#: What a document shows of a job: neither its arguments nor its traceback, which may be long.
SHOWN: Final = tuple(each.name for each in dataclasses.fields(JobView))
#: The job that stands for a key, and no more of it than its document shows. By hand, because
#: clients ask for nothing more often, and the ORM's compiler takes twice as long as all the rest.
_PENDING: Final = (
    f"SELECT {', '.join(f'job.{name}' for name in SHOWN)},"  # noqa: S608
    " job.record_id, record.fingerprint, record.fields"
    f" FROM {IdempotencyRecord._meta.db_table} record"
    f" JOIN {Job._meta.db_table} job ON job.record_id = record.id"
    " WHERE record.scope = %s AND record.{key} = %s AND record.state = %s"
)


def add(claimed: Claimed, order: JobOrder, *, using: str) -> JobView:
    """Put a job behind a claim, in the claim's transaction."""
    jobs = Job.objects.using(using)
    values = dataclasses.asdict(order) | {"arguments": encryption.seal_text(order.arguments)}
    job = jobs.create(record_id=claimed.record_id, created_at=ServerNow(), **values)
    # Django below 6.0 does not give back what the database has set; nothing else is asked for.
    job.created_at = jobs.values_list("created_at", flat=True).get(pk=job.pk)
    return view_of(job)


def pending(identity: Identity) -> Attached | None:
    """The queued or running job that stands for a key, if one does. One statement."""
    key = connections[identity.using].ops.quote_name("key")
    parameters = [identity.scope, identity.key, State.JOB.value]
    found: Any = Job.objects.using(identity.using).raw(_PENDING.format(key=key), parameters)
    for job in found:
        fingerprint = Fingerprint.from_bytes(bytes(job.fingerprint), job.fields)
        return Attached(job.record_id, fingerprint, view_of(job))
    return None


def view_of(job: Job) -> JobView:
    """What its document shows of a job; encrypted still, where no key opens it."""
    view = JobView(*(getattr(job, name) for name in SHOWN))
    if encryption.is_sealed(view.result):
        view = dataclasses.replace(view, result=_opened(view.result))
    if encryption.is_sealed(view.error_message):
        view = dataclasses.replace(view, error_message=_opened(view.error_message))
    return view


def begin(job_id: UUID, *, using: str) -> JobRun | None:
    """Lease a job to this worker; `None` where a message came late, twice or for nothing.

    A transaction of its own, short. It waits for nobody: who has the record is about to begin or
    to end the job, or will send another message. What was left by a worker that died is taken
    over, unless that is the sweep's to decide.
    """
    skips = connections[using].features.has_select_for_update_skip_locked
    with transaction.atomic(using=using, durable=True):
        found = _locked(job_id, using, skips=skips)
        if found is None:
            return None
        record, job = found
        lapsed = job.status == JobStatus.RUNNING and _lapsed(record, using)
        if job.status != JobStatus.QUEUED and (
            not lapsed or record.holds or job.attempts >= MAX_ATTEMPTS
        ):
            return None
        arguments = encryption.unseal_text(job.arguments, "job")
        if arguments is None:  # it waits for the key, and the sweep sends its message again
            return None
        job.arguments = arguments
        claimed = leases.take(Claimed(record.pk, record.attempt), job.lease, using=using)
        if claimed is None:
            return None
        Job.objects.using(using).filter(pk=job_id).update(
            status=JobStatus.RUNNING,
            attempts=F("attempts") + 1,
            started_at=Coalesce("started_at", ServerNow()),
            done=None,  # of the attempt before
            total=None,
        )
    return _run_of(record, job, claimed, job.attempts + 1, using)


def progress(job_id: UUID, attempts: int, done: int, total: int, *, using: str) -> None:
    """Say how far the attempt of this number is. Nothing happens where it is over or lost.

    It asks nothing of the record: a write that has waited for the job's end would not look there
    again, and put an older progress in the place of the last.
    """
    ours = Job.objects.using(using).filter(pk=job_id, status=JobStatus.RUNNING, attempts=attempts)
    ours.update(done=done, total=total)


def requeue(job_ids: Iterable[UUID], *, using: str) -> None:
    """Have jobs wait for their message, which is sent once more. The caller has raised the
    token, or knows that no worker has them."""
    Job.objects.using(using).filter(pk__in=list(job_ids)).update(
        status=JobStatus.QUEUED, resent=F("resent") + 1
    )


def retention(claimed: Claimed, *, using: str) -> tuple[float, float]:
    """`ttl` and `tombstone` of the job behind a claim, in seconds."""
    return Job.objects.using(using).values_list("ttl", "tombstone").get(record=claimed.record_id)


def reopen(claimed: Claimed, *, using: str) -> None:
    """Have a job that was held wait for a worker, as if it had not ended."""
    Job.objects.using(using).filter(record=claimed.record_id).update(
        status=JobStatus.QUEUED,
        error_code="",
        error_message="",
        traceback="",
        finished_at=None,
    )


def end(claimed: Claimed, ending: JobEnding, *, using: str) -> JobView:
    """Write how a job ended, and give what its document shows. The caller holds the fence, in
    the transaction of the job's effects."""
    ours = Job.objects.using(using).filter(record=claimed.record_id)
    changes = dataclasses.asdict(ending)
    progress = changes.pop("progress")
    if progress is not None:  # a heartbeat may not have come to write the last one
        changes["done"], changes["total"] = progress
    for name in ("result", "error_message", "traceback"):
        if changes[name]:  # "" says that there is none
            changes[name] = encryption.seal_text(changes[name])
    ours.update(finished_at=ServerNow(), **changes)
    return view_of(ours.only(*SHOWN).get())


def take(job_id: UUID, *, using: str) -> JobRun | None:
    """Take a job away from whoever has it, in the caller's transaction; `None`: it has ended.

    To end it, not to carry it out: its arguments are given as they are stored.
    """
    found = _locked(job_id, using)
    if found is None:
        return None
    record, job = found
    claimed = leases.take(Claimed(record.pk, record.attempt), job.lease, using=using)
    if claimed is None:
        return None
    return _run_of(record, job, claimed, job.attempts, using)


def unsent(job_id: UUID, *, using: str) -> None:
    """Take back what the sweep has counted: the broker did not take the message, and a pause that
    grows with its outage would keep the job waiting long after it."""
    with transaction.atomic(using=using):
        found = _locked(job_id, using)
        if found is None or found[1].status != JobStatus.QUEUED:
            return
        record, job = found
        records = IdempotencyRecord.objects.using(using).filter(pk=record.pk)
        records.update(lease_until=after(job.lease))
        Job.objects.using(using).filter(pk=job_id).update(resent=max(job.resent - 1, 0))


def _run_of(
    record: IdempotencyRecord, job: Job, claimed: Claimed, attempts: int, using: str
) -> JobRun:
    """A job that was taken, with the request that started it as the ledger saw it."""
    candidate = Candidate(
        identity=Identity(record.scope, record.key, using),
        operation=record.operation,
        fingerprint=_fingerprint(record),
        parent_key=record.parent_key,
        ttl=job.ttl,
        tombstone=job.tombstone,
        silence=seconds(conf.IDEMPOTENCY_LOCK_TIMEOUT),
        lease=job.lease,
        holds=record.holds,
        job=True,
    )
    order = JobOrder(
        **{each.name: getattr(job, each.name) for each in dataclasses.fields(JobOrder)}
    )
    return JobRun(job.pk, claimed, candidate, order, attempts)


def _locked(
    job_id: UUID, using: str, *, skips: bool = False
) -> tuple[IdempotencyRecord, Job] | None:
    """An unsettled job with its record, locked; the record first, as everybody does."""
    behind_it = Job.objects.using(using).filter(pk=job_id).values("record")
    records = IdempotencyRecord.objects.using(using).select_for_update(skip_locked=skips)
    record = records.filter(pk__in=behind_it, state=State.JOB).first()
    if record is None:
        return None
    return record, Job.objects.using(using).get(pk=job_id)


def _lapsed(record: IdempotencyRecord, using: str) -> bool:
    records = IdempotencyRecord.objects.using(using)
    return records.filter(pk=record.pk, lease_until__lte=ServerNow()).exists()


def _opened(sealed: str) -> str:
    text = encryption.unseal_text(sealed, "job")
    return sealed if text is None else text


def _fingerprint(record: IdempotencyRecord) -> Fingerprint:
    return Fingerprint.from_bytes(bytes(record.fingerprint), record.fields)
