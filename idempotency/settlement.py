"""An operator's verdict on a key: on one that was left without an outcome, that it happened, or
did not; on any that nobody is at work on, that its reply is over, or that it is forgotten.

The fencing token is raised where the record stays, and finds no record where it goes: whoever may
still be at work under the key writes nothing any more. After the commit, caches drop the reply.

Everywhere, `scope` and `key` are the record's, as the admin shows them, and `using` is the alias of
the records, by default the router's. `attempt` is the fencing token that whoever decides has seen:
where it has risen since, nothing is done.
"""

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from idempotency import events
from idempotency.conf import Duration, conf, seconds
from idempotency.documents import JSON_TYPE, encode, final_reply
from idempotency.layers import discard, jobs, leases, ledger, lock, steps
from idempotency.layers.discard import Discarded
from idempotency.models import JobStatus
from idempotency.outcomes import Candidate, Identity, JobEnding, Reply

#: Is told until when a reply that is gone may still be replayed by a cache that was not reached.
OnStale = Callable[[datetime], None]

#: Statuses whose replies have no body (RFC 9110).
BODILESS: Final = frozenset(
    {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
)


def it_happened(
    scope: str,
    key: str,
    *,
    status: int,
    body: Any,
    ttl: Duration | None = None,
    tombstone: Duration | None = None,
    attempt: int | None = None,
    using: str | None = None,
) -> bool:
    """Give the key the reply that it would have had; every retry gets it from now on.

    `body` is the reply's JSON, of a job its result; `None` and no body at all with 204, 205 and
    304, which no job can have. `ttl` and `tombstone` are the policy's, else a job's own, else the
    settings'. False where the key is not abandoned or unknown. Raises TypeError or ValueError for
    a body that is not JSON or too large, and for a status that is no final one.
    """
    alias = ledger.alias(using)
    if not 200 <= status <= 499 or status == HTTPStatus.ACCEPTED:
        raise ValueError(f"A reply that is kept has a status from 200 to 499, not {status}.")
    text = encode(body, "The reply")
    bodiless = status in BODILESS
    if bodiless and body is not None:
        raise ValueError(f"A reply with status {status} has no body.")
    with transaction.atomic(using=alias):
        left = leases.retake(scope, key, attempt=attempt, using=alias)
        if left is None:
            return False
        reply = Reply(status, (("Content-Type", JSON_TYPE),), text.encode())
        if bodiless:
            reply = Reply(status, (), b"")
        kept = jobs.retention(left.claimed, using=alias) if left.is_job else _retention()
        if left.is_job:
            if bodiless:
                raise ValueError(
                    f"A job's reply is its document, which status {status} cannot have."
                )
            ending = JobEnding(JobStatus.SUCCEEDED, result=text)
            reply = final_reply(jobs.end(left.claimed, ending, using=alias), status)
        candidate = Candidate(
            identity=Identity(scope, key, alias),
            operation=left.operation,
            fingerprint=left.fingerprint,
            parent_key="",
            ttl=kept[0] if ttl is None else seconds(ttl),
            tombstone=kept[1] if tombstone is None else seconds(tombstone),
            silence=0.0,
        )
        ledger.finish(left.claimed, candidate, reply, using=alias)
        _settled("happened", left.operation, candidate.identity)
    return True


def it_never_happened(
    scope: str, key: str, *, attempt: int | None = None, using: str | None = None
) -> bool:
    """Have it run: a job by the next sweep, a request by the next retry.

    Steps that are done stay done, and are not repeated. False where the key is not abandoned or
    unknown.
    """
    return _free(scope, key, attempt, using, verdict="never_happened")


def release(scope: str, key: str, *, attempt: int | None = None, using: str | None = None) -> bool:
    """As `it_never_happened`, where the policy asks for no verdict: of an execution that is gone
    and whose key the next retry could take over.

    False where it is alive, has ended, or is held for an operator.
    """
    return _free(scope, key, attempt, using, verdict="released")


def expire(
    scope: str,
    key: str,
    *,
    attempt: int | None = None,
    on_stale: OnStale | None = None,
    using: str | None = None,
) -> bool:
    """End the replay of a stored reply, and delete it: late retries are refused from now on.

    False where there is no reply that is replayed. `on_stale` is called after the commit, and only
    where a cache may still have the reply, with the moment until which it gives it out.
    """
    identity = Identity(scope, key, ledger.alias(using))
    return _discard(discard.expire, identity, attempt, on_stale, verdict="expired")


def forget(
    scope: str,
    key: str,
    *,
    attempt: int | None = None,
    on_stale: OnStale | None = None,
    using: str | None = None,
) -> bool:
    """Delete the record with its job and its steps: the next request with the key runs.

    A retry of what has been done already is then done twice. False where there is no record, or
    somebody is at work on it: a lease that is alive, a job that is queued or running, which can be
    cancelled. `on_stale` as in `expire`.
    """
    identity = Identity(scope, key, ledger.alias(using))
    return _discard(discard.forget, identity, attempt, on_stale, verdict="forgotten")


def _discard(
    take: Callable[..., Discarded | None],
    identity: Identity,
    attempt: int | None,
    on_stale: OnStale | None,
    *,
    verdict: str,
) -> bool:
    with transaction.atomic(using=identity.using):
        found = take(identity.scope, identity.key, attempt, using=identity.using)
        if found is None:
            return False
        _settled(verdict, found.operation, identity, found.replayed_until, on_stale)
    return True


def _free(scope: str, key: str, attempt: int | None, using: str | None, *, verdict: str) -> bool:
    alias = ledger.alias(using)
    held = verdict == "never_happened"
    with transaction.atomic(using=alias):
        left = leases.retake(scope, key, attempt=attempt, held=held, using=alias)
        if left is None:
            return False
        if left.is_job:
            jobs.reopen(left.claimed, using=alias)
        else:
            state = steps.state_without_reply(left.claimed.record_id, using=alias)
            leases.leave(left.claimed, state, sum(_retention()), using=alias)
        _settled(verdict, left.operation, Identity(scope, key, alias))
    return True


def _retention() -> tuple[float, float]:
    return seconds(conf.IDEMPOTENCY_TTL), seconds(conf.IDEMPOTENCY_TOMBSTONE)


def _settled(
    verdict: str,
    operation: str,
    identity: Identity,
    replayed_until: datetime | None = None,
    on_stale: OnStale | None = None,
) -> None:
    """What follows a verdict, once it is committed."""

    def tell() -> None:
        events.record(events.Event(events.SETTLED, operation, verdict, identity.digest))
        dropped = lock.drop([identity])
        if dropped or on_stale is None or replayed_until is None:
            return
        if replayed_until > timezone.now():
            on_stale(replayed_until)

    # Not sooner: who reads the ledger before the commit could publish the reply again.
    transaction.on_commit(tell, using=identity.using, robust=True)
