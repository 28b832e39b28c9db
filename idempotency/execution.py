"""The atomic execution: one transaction that begins with the claim and ends with the finish.

The handler's effects and its reply commit together or not at all. That one rule decides which
replies are remembered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, transaction
from django.http.response import HttpResponseBase

from idempotency import events, replies
from idempotency.current import Execution, entered
from idempotency.exceptions import LeaseLost, OutcomeUnknown, StepChanged, Unavailable
from idempotency.keys import running
from idempotency.layers import ledger, link, steps
from idempotency.operation import Operation
from idempotency.outcomes import (
    Abandoned,
    Attached,
    Claimed,
    Expired,
    Finished,
    InFlight,
    StoredReply,
)

#: What an attempt may find instead of running the handler.
Refused = Finished | Expired | InFlight | Attached

#: Runs the protected action and gives its rendered response.
Handler = Callable[[], HttpResponseBase]
#: Turns an error of the handler into its rendered response, or raises it again.
ErrorHandler = Callable[[Exception], HttpResponseBase]


def raise_again(error: Exception) -> NoReturn:
    """The ErrorHandler where nobody renders: the caller gets the error itself."""
    raise error


#: Seconds a client should let pass before it asks again.
RETRY_AFTER: Final = 1.0

_UNDONE: Final = (
    "The database undid this request's transaction to keep it apart from others (a serialization"
    " failure). Send the same request again, with the same key, after the time in Retry-After."
)


@dataclass(frozen=True, slots=True)
class Done:
    """The handler ran and its transaction has ended; `stored` is what may be published.

    It is `None` where the work was undone, and where a job is queued.
    """

    response: HttpResponseBase
    stored: StoredReply | None
    queued: bool = False


def attempt(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: events.Reporter
) -> Done | Refused:
    """One transaction that begins with the claim: the execution, or a look at who has the key."""
    using = operation.using
    # The key is known as long as the hooks after the commit run: they may call children too.
    with (
        answering(using, log) as began,
        running(operation.identity.key, operation.identity.scope_digest),
        transaction.atomic(using=using, durable=True),
    ):
        began()
        verdict = claim(operation, log)
        if not isinstance(verdict, Claimed):
            return verdict
        with entered(Execution(verdict, operation.candidate, using)) as execution:
            done = _execute(operation, execution, handler, on_error, log)
    if done.stored is not None:
        log.record(events.EXECUTED)
    elif done.queued:
        log.record(events.JOB_QUEUED)
    return done


@contextmanager
def answering(using: str, log: events.Reporter) -> Iterator[Callable[[], None]]:
    """Turns what says "nobody knows" into Unavailable, around a transaction.

    Gives a function to be called as the transaction begins: it tells which connection that was.
    """
    before: object = None

    def began() -> None:
        nonlocal before
        before = link.current(using=using)

    try:
        yield began
    except LeaseLost as error:
        log.record(events.LEASE_LOST)
        raise Unavailable(retry_after=RETRY_AFTER) from error
    except (DatabaseError, InterfaceError) as error:
        # Refused is the handler's own error; no answer at all is an outcome that nobody knows.
        if link.unreachable(error, using=using, before=before):
            raise Unavailable(retry_after=RETRY_AFTER) from error
        if link.is_serialization_failure(error):
            raise Unavailable(_UNDONE, retry_after=RETRY_AFTER) from error
        raise


@contextmanager
def writing(using: str) -> Iterator[None]:
    """Turns "not now" into Unavailable, around a statement of the ledger's own."""
    try:
        yield
    except (OperationalError, InternalError) as error:
        if link.is_not_now(error, using=using):
            raise Unavailable(retry_after=RETRY_AFTER) from error
        raise


def claim(operation: Operation, log: events.Reporter) -> Claimed | Refused:
    """The claim, of an abandoned key too. First statement of its transaction.

    Raises KeyReused where an abandoned key stood for another request, and OutcomeUnknown where its
    policy leaves it to an operator.
    """
    candidate, using = operation.candidate, operation.using
    with writing(using):
        verdict = ledger.claim(candidate, using=using)
    if not isinstance(verdict, Abandoned):
        return verdict
    operation.refuse_mismatch(verdict.fingerprint)
    if verdict.held:
        raise OutcomeUnknown
    if candidate.lease is None and steps.any_finished(verdict.record_id, using=using):
        raise StepChanged(
            "An earlier attempt under this key has done steps, which an atomic execution would do"
            " again: the policy has changed since. Give it back its policy, or settle the key."
        )
    with writing(using):
        claimed = ledger.take_over(candidate, verdict, using=using)
    if claimed is None:
        return InFlight(fingerprint=verdict.fingerprint)
    log.record(events.TAKEN_OVER)
    return claimed


def _execute(
    operation: Operation,
    execution: Execution,
    handler: Handler,
    on_error: ErrorHandler,
    log: events.Reporter,
) -> Done:
    """Run the handler under its claim; store the reply with its effects, or undo both."""
    using = operation.using
    if operation.terms.remember_errors:
        response, why = _handle_errors(operation, execution, handler, on_error)
    else:
        response, why = handler(), None
    why = why or undoing(response, using)
    if why is not None:
        log.record(why.event, why.detail)
        transaction.set_rollback(True, using=using)
        return Done(response, None)
    if link.waits(execution.message, using=using):
        return Done(response, None, queued=True)  # provisional: the job's end is the reply
    reply = replies.capture(response)
    with writing(using):
        stored = ledger.finish(execution.claimed, operation.candidate, reply, using=using)
    return Done(response, stored)


@dataclass(frozen=True, slots=True)
class Undoing:
    """Why the work is undone although there is a response."""

    event: str
    detail: str


def undoing(response: HttpResponseBase, using: str) -> Undoing | None:
    """Whether, and why, a transaction with this response must not commit."""
    if replies.has_failed(response):
        return Undoing(events.FAILED, str(response.status_code))
    if link.doomed(using=using):
        return Undoing(events.ROLLED_BACK, str(response.status_code))
    return None


class _Undone(Exception):
    """Carries a response out of the savepoint that its exception undoes."""

    def __init__(self, response: HttpResponseBase, why: Undoing | None) -> None:
        self.response = response
        self.why = why


def _handle_errors(
    operation: Operation, execution: Execution, handler: Handler, on_error: ErrorHandler
) -> tuple[HttpResponseBase, Undoing | None]:
    """The handler in a savepoint, so that a remembered error outlives what it undoes."""
    using = operation.using
    try:
        with transaction.atomic(using=using):
            try:
                response = handler()
            except Exception as error:
                rendered = on_error(error)
                remembered = rendered.status_code in operation.terms.remember_errors
                why = None if remembered else Undoing(events.FAILED, type(error).__name__)
                raise _Undone(rendered, why) from error
            # Left to the savepoint, a mark would be forgotten and a success stored for no work.
            why = undoing(response, using)
            if why is not None:
                raise _Undone(response, why)
    except _Undone as undone:
        return undone.response, undone.why
    return response, None
