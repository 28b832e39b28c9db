"""An operator's verdict on a key that was left without an outcome: it happened, or it did not.

For what `on_abandoned="hold"` holds, and for abandoned executions that nobody comes back for. The
fencing token is raised: whoever may still be at work under the key writes nothing any more.
"""

from http import HTTPStatus
from typing import Any

from django.db import transaction

from idempotency import events
from idempotency.conf import Duration, conf, seconds
from idempotency.documents import JSON_TYPE, encode, final_reply
from idempotency.layers import jobs, leases, ledger, steps
from idempotency.models import JobStatus
from idempotency.outcomes import Candidate, Identity, JobEnding, Reply


def it_happened(
    scope: str,
    key: str,
    *,
    status: int,
    body: Any,
    ttl: Duration | None = None,
    tombstone: Duration | None = None,
    using: str | None = None,
) -> bool:
    """Give the key the reply that it would have had; every retry gets it from now on.

    `scope` and `key` are the record's, as the admin shows them; `body` is the reply's JSON, of a
    job its result. `ttl` and `tombstone` are the policy's, else a job's own, else the settings'.
    False where the key is not abandoned or unknown. Raises TypeError or ValueError for a body that
    is not JSON or too large, and for a status that is no final one.
    """
    alias = ledger.alias(using)
    if not 200 <= status <= 499 or status == HTTPStatus.ACCEPTED:
        raise ValueError(f"A reply that is kept has a status from 200 to 499, not {status}.")
    text = encode(body, "The reply")
    with transaction.atomic(using=alias):
        left = leases.retake(scope, key, using=alias)
        if left is None:
            return False
        reply = Reply(status, (("Content-Type", JSON_TYPE),), text.encode())
        kept = jobs.retention(left.claimed, using=alias) if left.is_job else _retention()
        if left.is_job:
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
    _report(left, "happened", candidate.identity)
    return True


def it_never_happened(scope: str, key: str, *, using: str | None = None) -> bool:
    """Have it run: a job by the next sweep, a request by the next retry.

    Steps that are done stay done, and are not repeated. False where the key is not abandoned or
    unknown.
    """
    alias = ledger.alias(using)
    with transaction.atomic(using=alias):
        left = leases.retake(scope, key, using=alias)
        if left is None:
            return False
        if left.is_job:
            jobs.reopen(left.claimed, using=alias)
        else:
            state = steps.state_without_reply(left.claimed.record_id, using=alias)
            leases.leave(left.claimed, state, sum(_retention()), using=alias)
    _report(left, "never_happened", Identity(scope, key, alias))
    return True


def _retention() -> tuple[float, float]:
    return seconds(conf.IDEMPOTENCY_TTL), seconds(conf.IDEMPOTENCY_TOMBSTONE)


def _report(left: leases.Left, verdict: str, identity: Identity) -> None:
    events.record(events.Event(events.SETTLED, left.operation, verdict, identity.digest))
