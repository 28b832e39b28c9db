"""The protocol: at most one committed execution for every (scope, key).

The handler's effects and its reply commit together, in one transaction that begins with the claim
and ends with the finish. Before it stand the cache (is there a reply?) and the lock (is somebody
on it?); both may be absent, and neither decides that a request is new.
"""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from django.db import transaction
from django.http.response import HttpResponseBase

from idempotency import counting, events, execution, replies
from idempotency.attempts import attempt
from idempotency.crowd import Waiter
from idempotency.documents import provisional_reply
from idempotency.exceptions import (
    IdempotencyError,
    InProgress,
    KeyExpired,
    ReplyNotKept,
)
from idempotency.execution import RETRY_AFTER, Done, ErrorHandler, Handler
from idempotency.layers import jobs, link, lock
from idempotency.observing import observe
from idempotency.operation import Operation
from idempotency.outcomes import (
    Attached,
    Busy,
    Expired,
    Finished,
    Held,
    InFlight,
    JobView,
    Off,
    StoredReply,
)

#: Calls a function after the response has been sent, or at once where nothing is sent.
After = Callable[[HttpResponseBase, Callable[[], None]], None]

#: Claims in a row before "perhaps a neighbour's lock" counts as "in progress".
UNCERTAIN_CLAIMS = 5


def at_once(answer: HttpResponseBase, call: Callable[[], None]) -> None:
    """Calls it: nothing is sent."""
    call()


def run(
    operation: Operation, handler: Handler, on_error: ErrorHandler, after: After = at_once
) -> HttpResponseBase:
    """The reply of the one execution of this operation under its key, run now or stored.

    `handler` runs inside the transaction, at most once. `on_error` renders an error that the
    policy may remember. `after` has cache and lock told once the reply is on its way: the ledger
    knows by then, and until then the lock stands. Raises an IdempotencyError where the request is
    refused, and the handler's own exceptions untouched.
    """
    log = events.Reporter(operation.name, operation.identity.digest)
    try:
        if operation.terms.mode == "observe":
            return observe(operation, handler, log)
        return _enforce(operation, handler, on_error, after, log)
    except IdempotencyError as refusal:
        log.record(events.REFUSED, refusal.default_code)
        raise
    except Exception as error:
        log.record(events.FAILED, type(error).__name__)
        raise


def run_without_key(handler: Handler, *, using: str) -> HttpResponseBase:
    """A protected action without a key: the same transaction, and no record."""
    with transaction.atomic(using=using, durable=True):
        response = handler()
        if execution.undoing(response, using) is not None:
            transaction.set_rollback(True, using=using)
    return response


def _enforce(
    operation: Operation,
    handler: Handler,
    on_error: ErrorHandler,
    after: After,
    log: events.Reporter,
) -> HttpResponseBase:
    view = lock.enter(operation.identity, operation.payload.fingerprint)
    publish: StoredReply | None = None
    answer: HttpResponseBase | None = None
    waits = operation.terms.in_flight == "wait"
    uncertain = 0
    with Waiter(operation.terms.wait_timeout) as waiter:
        handle = partial(_stand_up, waiter, handler)
        try:
            while True:
                if isinstance(view, StoredReply):
                    return _replay(operation, view, "cache", waiter, log)
                _refuse_other_request(operation, view)
                # A holder that was just met is most likely alive: wait first, then look.
                just_met = isinstance(view, Busy) and waits and not waiter.waited
                if not (just_met and waiter.may_wait()):
                    match attempt(operation, handle, on_error, log):
                        case Done(response, stored):
                            publish, answer = stored, response
                            return response
                        case Finished(stored):
                            publish = stored
                            _report_caught(operation, view, log)
                            answer = _replay(operation, stored, "ledger", waiter, log)
                            return answer
                        case Expired():
                            raise KeyExpired
                        case Attached(record_id, _, job):
                            return _attach(operation, record_id, job, log)
                        case InFlight(certain):
                            _report_caught(operation, view, log)
                        case unknown:
                            assert_never(unknown)
                    if not certain and uncertain < UNCERTAIN_CLAIMS:
                        uncertain += 1
                    elif not (waits and waiter.may_wait()):
                        raise InProgress(retry_after=RETRY_AFTER)
                view = _next_view(operation, view, waiter)
        finally:
            if isinstance(view, Held | Off):
                _leave(operation, view, publish, answer, after)


def _attach(
    operation: Operation, record_id: int, job: JobView | None, log: events.Reporter
) -> HttpResponseBase:
    """How far the job is that stands for the key."""
    view = job or jobs.of_record(record_id, using=operation.using)
    if view is None:
        raise AssertionError(f"record {record_id} stands for a job that is not there")
    log.record(events.ATTACHED)
    return provisional_reply(view, RETRY_AFTER)


def _stand_up(waiter: Waiter, handler: Handler) -> HttpResponseBase:
    """The handler, by a request that no longer waits: its place in the crowd is another's."""
    waiter.leave()
    return handler()


def _refuse_other_request(operation: Operation, view: lock.View) -> None:
    """Raises KeyReused where the lock tells that its holder is another request."""
    if isinstance(view, Busy) and view.fingerprint is not None:
        operation.refuse_mismatch(view.fingerprint)


def _next_view(operation: Operation, view: lock.View, waiter: Waiter) -> lock.View:
    """Let some time pass, then ask the rooms again."""
    if isinstance(view, Held):  # Redis was emptied under a leader: keep the lock, ask the ledger
        waiter.pause()
        return view
    if isinstance(view, Busy):
        lock.wait(operation.identity, waiter.slice())
    else:
        waiter.pause()
    return lock.enter(operation.identity, operation.payload.fingerprint)


def _report_caught(operation: Operation, view: lock.View, log: events.Reporter) -> None:
    """The ledger stopped what cache and lock let through. They never have a job's first reply."""
    if not isinstance(view, Busy) and operation.terms.execution != "job":
        log.record_once(events.CONSTRAINT_CAUGHT)


def _leave(
    operation: Operation,
    view: Held | Off,
    reply: StoredReply | None,
    answer: HttpResponseBase | None,
    after: After,
) -> None:
    """Publish and release, after the commit. A TestCase's transaction never commits."""
    if link.in_transaction(using=operation.using):
        reply = answer = None
    leave = partial(lock.leave, operation.identity, view, reply)
    if answer is None:
        leave()
    else:
        after(answer, leave)


def _replay(
    operation: Operation, stored: StoredReply, layer: str, waiter: Waiter, log: events.Reporter
) -> HttpResponseBase:
    operation.refuse_mismatch(stored.fingerprint)
    if stored.body is None:
        raise ReplyNotKept
    if waiter.waited:
        log.record(events.WAITED)
    log.record(events.REPLAYED, layer)
    counting.replayed(operation.identity)
    return replies.replay(stored)
