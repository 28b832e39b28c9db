"""The leased execution: the claim commits first, and a heartbeat keeps it while the handler runs.

For handlers that call the outside world or run for long. The handler's writes and the reply still
commit together, under the fence: of an execution that was taken over, nothing is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from django.db import DatabaseError, InterfaceError, transaction
from django.http.response import HttpResponseBase

from idempotency import events, replies
from idempotency.current import Execution, entered
from idempotency.exceptions import LeaseLost, is_refusal
from idempotency.execution import (
    Done,
    ErrorHandler,
    Handler,
    Refused,
    answering,
    claim,
    undoing,
    writing,
)
from idempotency.heartbeat import Heartbeat
from idempotency.layers import leases, ledger, link, steps
from idempotency.models import State
from idempotency.operation import Operation
from idempotency.outcomes import Claimed, StoredReply
from idempotency.work import Work


def attempt(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: events.Reporter
) -> Done | Refused:
    """A claim that commits, then the handler under its lease; or what stands in the way."""
    using = operation.using
    with answering(using, log) as began:
        with transaction.atomic(using=using, durable=True):
            began()
            claimed = claim(operation, log)
        if not isinstance(claimed, Claimed):
            return claimed
        execution = Execution(claimed, operation.candidate, using)
        try:
            with beating(execution), entered(execution):
                done = _run(operation, execution, handler, on_error, log)
        except BaseException:
            if execution.work is None:  # the handler was not entered
                _leave(execution, certain=True)
            raise
    if done.stored is not None:
        log.record(events.EXECUTED)
    return done


@contextmanager
def beating(execution: Execution) -> Iterator[None]:
    """Renew the execution's lease while the block runs."""
    using, lease = execution.using, execution.candidate.lease or 0.0
    if link.in_transaction(using=using):  # a TestCase's, into which no other connection sees
        yield
        return
    renew = partial(leases.renew, execution.claimed, lease, using=using)
    with Heartbeat(renew, lease, using=using) as execution.heartbeat:
        yield


def _run(
    operation: Operation,
    execution: Execution,
    handler: Handler,
    on_error: ErrorHandler,
    log: events.Reporter,
) -> Done:
    """Run the handler; commit its reply with its last effects, or leave the claim."""
    using = operation.using
    try:
        with Work(execution.claimed, execution.candidate, using=using) as work:
            execution.work = work
            response = handler()
            why = undoing(response, using)
            if why is None:
                done = Done(response, work.settle(partial(_finish, execution, response)))
            else:
                work.undo()
    except LeaseLost:
        raise
    except Exception as error:
        if execution.work is None:
            raise
        if not operation.terms.remember_errors:
            _leave(execution, certain=is_refusal(error))
            raise
        return _handle_error(operation, execution, error, on_error, log)
    except BaseException:  # the process is told to go
        if execution.work is not None:
            _leave(execution, certain=False)
        raise
    if why is None:
        return done
    log.record(why.event, why.detail)
    _leave(execution, certain=False)
    return Done(response, None)


def _handle_error(
    operation: Operation,
    execution: Execution,
    error: Exception,
    on_error: ErrorHandler,
    log: events.Reporter,
) -> Done:
    """The error as it is rendered: kept, where the policy says so, else forgotten."""
    try:
        rendered = on_error(error)
    except BaseException:
        _leave(execution, certain=is_refusal(error))
        raise
    if rendered.status_code in operation.terms.remember_errors:
        with transaction.atomic(using=operation.using, durable=True):
            return Done(rendered, _finish(execution, rendered))
    log.record(events.FAILED, type(error).__name__)
    _leave(execution, certain=is_refusal(error))
    return Done(rendered, None)


def _finish(execution: Execution, response: HttpResponseBase) -> StoredReply:
    reply, using = replies.capture(response), execution.using
    with writing(using):
        return ledger.finish(execution.claimed, execution.candidate, reply, using=using)


#: What is told of a key that is left without a reply, and not free.
_REPORTED: Final = {State.UNKNOWN: events.OUTCOME_UNKNOWN, State.ABANDONED: events.ABANDONED}


def _leave(execution: Execution, *, certain: bool) -> None:
    """Free the key, or hold it where what happened outside is not known.

    Where that fails, the end of the lease does the same.
    """
    candidate, using = execution.candidate, execution.using
    kept = candidate.ttl + candidate.tombstone
    with suppress(DatabaseError, InterfaceError):
        link.mend(using=using)
        if candidate.holds and not certain:
            state = State.UNKNOWN
        else:
            state = steps.state_without_reply(execution.claimed.record_id, using=using)
        left = leases.leave(execution.claimed, state, kept, using=using)
        if left and state in _REPORTED:
            digest = candidate.identity.digest
            events.record(events.Event(_REPORTED[state], candidate.operation, digest=digest))
