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
    outcome: Done | Refused
    match operation.terms.execution:
        case "atomic":
            outcome = execution.attempt(operation, handler, on_error, log)
        case "leased":
            leases.check_vendor(operation.using)
            outcome = leased.attempt(operation, handler, on_error, log)
        case "job":
            leases.check_vendor(operation.using)
            # Clients that ask how far a job is come far more often than those that start one.
            with execution.answering(operation.using, log):
                pending = jobs.pending(operation.identity)
            outcome = pending or execution.attempt(operation, handler, on_error, log)
    if isinstance(outcome, InFlight | Attached) and outcome.fingerprint is not None:
        operation.refuse_mismatch(outcome.fingerprint)
    return outcome
