"""Observe mode: everything runs, and what would have been deduplicated is counted."""

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
from idempotency.outcomes import Abandoned, Attached, Claimed, Expired, Finished, InFlight


def observe(operation: Operation, handler: Handler, log: events.Reporter) -> HttpResponseBase:
    """Run it whatever the ledger says, and count what would have happened."""
    if operation.terms.execution != "atomic":
        return _observe_committed(operation, handler, log)
    using = operation.using
    with (
        running(operation.identity.key, operation.identity.scope_digest),
        transaction.atomic(using=using, durable=True),
    ):
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
    began = False

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
        log.record(events.OBSERVED, _would_be(operation, outcome))
        if isinstance(outcome, Done):
            return outcome.response
    outcome = attempt(operation.under(str(uuid4())), handler, raise_again, log)
    if not isinstance(outcome, Done):
        raise AssertionError(f"a new key met {outcome!r}")
    return outcome.response


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
