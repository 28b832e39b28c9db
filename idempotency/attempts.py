"""One attempt at an operation, by the execution that its policy names."""

from idempotency import events, execution, leased
from idempotency.execution import Done, ErrorHandler, Handler, Refused
from idempotency.layers import jobs, leases
from idempotency.operation import Operation
from idempotency.outcomes import Attached, InFlight


def attempt(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: events.Reporter
) -> Done | Refused:
    """The execution that the policy asks for, or what stands in its way.

    Raises KeyReused where that is another request.
    """
    outcome = _attempt(operation, handler, on_error, log)
    if isinstance(outcome, Attached) and outcome.job is None:
        # Begun since we looked, or the policy has changed since. By now it may have ended, too.
        outcome = _pending(operation, log) or _attempt(operation, handler, on_error, log)
    if isinstance(outcome, Attached) and outcome.job is None:
        # Somebody has deleted the job's row: the sweep gives the key back.
        outcome = InFlight(fingerprint=outcome.fingerprint)
    if isinstance(outcome, InFlight | Attached) and outcome.fingerprint is not None:
        operation.refuse_mismatch(outcome.fingerprint)
    return outcome


def _attempt(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: events.Reporter
) -> Done | Refused:
    match operation.terms.execution:
        case "atomic":
            return execution.attempt(operation, handler, on_error, log)
        case "leased":
            leases.check_vendor(operation.using)
            return leased.attempt(operation, handler, on_error, log)
        case "job":
            leases.check_vendor(operation.using)
            # Clients that ask how far a job is come far more often than those that start one.
            pending = _pending(operation, log)
            return pending or execution.attempt(operation, handler, on_error, log)


def _pending(operation: Operation, log: events.Reporter) -> Attached | None:
    with execution.answering(operation.using, log):
        return jobs.pending(operation.identity)
