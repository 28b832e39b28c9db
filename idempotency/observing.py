"""Observe mode: everything runs, and what would have been deduplicated is counted.

A request without a key is known by its fingerprint: the same caller, operation, route and body.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from uuid import uuid4

from django.db import transaction
from django.http.response import HttpResponseBase

from idempotency import events, execution, replies
from idempotency.attempts import attempt
from idempotency.current import Execution, entered
from idempotency.exceptions import InProgress, KeyExpired, KeyReused, OutcomeUnknown
from idempotency.execution import Done, Handler, raise_again
from idempotency.keys import running
from idempotency.layers import ledger
from idempotency.operation import Operation
from idempotency.outcomes import (
    Abandoned,
    Attached,
    Candidate,
    Claimed,
    Expired,
    Finished,
    InFlight,
    Reply,
)

logger: Final = logging.getLogger("idempotency")

#: Seconds in which a request without a key counts as a duplicate of an equal one. A minute, as in
#: the audit: a client's retries and a person's second click come sooner, and later on the same
#: request may well be meant.
WINDOW: Final = 60.0
#: Claims in a row that may meet a neighbour's lock before the fingerprint counts as new.
CLAIMS: Final = 5

_NO_REPLY: Final = Reply(204, (), None)


def observe(operation: Operation, handler: Handler, log: events.Reporter) -> HttpResponseBase:
    """Run it whatever the ledger says, and count what would have happened."""
    if operation.terms.execution != "atomic":
        return _observe_committed(operation, handler, log)
    using = operation.using
    with (
        execution.answering(using, log) as began,
        running(operation.identity.key, operation.identity.scope_digest),
        transaction.atomic(using=using, durable=True),
    ):
        began()
        verdict = ledger.claim(operation.candidate, using=using)
        # A duplicate has no claim, and yet may ask for its attempt.
        claimed = verdict if isinstance(verdict, Claimed) else Claimed(0, 1)
        with entered(Execution(claimed, operation.candidate, using)):
            response = handler()
        why = execution.undoing(response, using)
        if why is not None:
            log.record(why.event, why.detail)
            transaction.set_rollback(True, using=using)
        elif isinstance(verdict, Claimed):
            reply = replies.capture_if_possible(response)
            ledger.finish(verdict, operation.candidate, reply, using=using)
    log.record(events.OBSERVED, _would_be(operation, verdict))
    return response


def _observe_committed(
    operation: Operation, handler: Handler, log: events.Reporter
) -> HttpResponseBase:
    """The same for leases and jobs, whose claims are committed: a duplicate runs under a key of
    its own."""
    started, began = time.monotonic(), False

    def handle() -> HttpResponseBase:
        nonlocal began
        began = True
        return handler()

    try:
        outcome = attempt(operation, handle, raise_again, log)
    except (KeyReused, OutcomeUnknown) as refusal:
        if began:  # it is the handler's own
            raise
        log.record(events.OBSERVED, refusal.default_code)
    else:
        if not operation.keyless:
            log.record(events.OBSERVED, _would_be(operation, outcome))
        elif isinstance(outcome, Done) and (outcome.queued or outcome.stored is not None):
            _count(operation.name, lambda: operation, started)
        if isinstance(outcome, Done):
            return outcome.response
    outcome = attempt(operation.under(str(uuid4())), handler, raise_again, log)
    if not isinstance(outcome, Done):
        raise AssertionError(f"a new key met {outcome!r}")
    return outcome.response


def observe_keyless(
    name: str, handler: Handler, ask: Callable[[], Operation], *, using: str
) -> HttpResponseBase:
    """Run an action that has no key as in enforce mode, then count whether its like was met.

    `ask` gives the operation; it is called after the commit, where neither it nor the counting can
    change what the client gets.
    """
    began = time.monotonic()
    with transaction.atomic(using=using, durable=True):
        response = handler()
        undone = execution.undoing(response, using) is not None
        if undone:
            transaction.set_rollback(True, using=using)
    if not undone:
        _count(name, ask, began)
    return response


def _count(name: str, ask: Callable[[], Operation], began: float) -> None:
    """Count a request that has succeeded, by its fingerprint. Raises nothing."""
    digest = ""
    try:
        candidate = _candidate(ask())
        digest = candidate.identity.digest
        known = _is_known(candidate)
    except Exception as error:  # noqa: BLE001 - the work is committed: whatever it is, the reply stands
        logger.info("idempotency cannot tell a fingerprint: %s", type(error).__name__)
        detail = events.UNKNOWN_FINGERPRINT
    else:
        detail = events.KNOWN_FINGERPRINT if known else events.NEW_FINGERPRINT
    duration = time.monotonic() - began
    events.record(events.Event(events.OBSERVED, name, detail, digest, duration))


def _candidate(operation: Operation) -> Candidate:
    """The request under a key that no client can make up, since its digests take the secret."""
    fingerprint = operation.payload.fingerprint
    return Candidate(
        identity=replace(operation.identity, key=f"fingerprint:{bytes(fingerprint).hex()}"),
        operation=operation.name,
        fingerprint=fingerprint,
        parent_key="",
        ttl=WINDOW,
        tombstone=0.0,
        silence=0.0,  # no handler runs in its transaction
    )


def _is_known(candidate: Candidate) -> bool:
    """Whether the ledger has met it within `WINDOW`; if not, it has now. No reply is kept."""
    using = candidate.identity.using
    for _ in range(CLAIMS):
        with transaction.atomic(using=using, durable=True):
            verdict = ledger.claim(candidate, using=using)
            if isinstance(verdict, Claimed):
                ledger.finish(verdict, candidate, _NO_REPLY, using=using)
                return False
        if not isinstance(verdict, InFlight) or verdict.certain:
            return True
    return False


def _would_be(operation: Operation, verdict: ledger.Verdict | Done) -> str:
    try:
        match verdict:
            case Claimed() | Done():
                return events.EXECUTED
            case Finished(stored):
                operation.refuse_mismatch(stored.fingerprint)
                return events.REPLAYED
            case Expired():
                return KeyExpired.default_code
            case InFlight():
                return InProgress.default_code
            case Attached():
                return events.ATTACHED
            case Abandoned(_, _, fingerprint, held):
                operation.refuse_mismatch(fingerprint)
                return OutcomeUnknown.default_code if held else events.EXECUTED
    except KeyReused as refusal:
        return refusal.default_code
