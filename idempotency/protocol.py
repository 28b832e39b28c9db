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
from idempotency.fingerprint import Fingerprint
from idempotency.layers import link, lock
from idempotency.observing import observe
from idempotency.operation import Operation
from idempotency.outcomes import (
    Attached,
    Busy,
    Expired,
    Finished,
    Held,
    InFlight,
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
    uncertain = 0

    def stand_up() -> HttpResponseBase:
        # No longer waiting: the place in the crowd is another's, and the lock is not its holder's.
        nonlocal view
        waiter.leave()
        view = _inherited(operation, view)
        return handler()

    with Waiter(operation.terms.wait_timeout) as waiter:
        try:
            while True:
                if isinstance(view, StoredReply):
                    return _replay(operation, view, "cache", waiter, log)
                if not _waits_first(operation, view, waiter):
                    match attempt(operation, stand_up, on_error, log):
                        case Done(response, stored):
                            publish, answer = stored, response
                            return response
                        case Finished(stored):
                            _report_caught(operation, view, log)
                            publish, view = stored, _inherited(operation, view)
                            answer = _replay(operation, stored, "ledger", waiter, log)
                            return answer
                        case Expired():
                            raise KeyExpired
                        case Attached(job=job):
                            assert job is not None  # noqa: S101 - attempt has seen to it
                            log.record(events.ATTACHED)
                            return provisional_reply(job, RETRY_AFTER)
                        case InFlight(certain):
                            _report_caught(operation, view, log)
                        case unknown:
                            assert_never(unknown)
                    if not certain and uncertain < UNCERTAIN_CLAIMS:
                        uncertain += 1
                    else:
                        _refuse_or_wait(operation, view, waiter)
                view = _next_view(operation, view, waiter)
        finally:
            if isinstance(view, Held | Off):
                _leave(operation, view, publish, answer, after)


def _waits_first(operation: Operation, view: lock.View, waiter: Waiter) -> bool:
    """Whether to wait before the ledger is asked: a holder that was just met is most likely alive.

    Not for another request's: that is refused, or may run, as soon as the ledger knows more.
    """
    if not isinstance(view, Busy) or waiter.waited or _other_holder(operation, view) is not None:
        return False
    return operation.terms.in_flight == "wait" and waiter.may_wait()


def _refuse_or_wait(operation: Operation, view: lock.View, waiter: Waiter) -> None:
    """Somebody is on the key: raises KeyReused where the lock tells that it is another request,
    and InProgress where there is no waiting."""
    other = _other_holder(operation, view)
    if other is not None:
        operation.refuse_mismatch(other)
    if operation.terms.in_flight != "wait" or not waiter.may_wait():
        raise InProgress(retry_after=RETRY_AFTER)


def _other_holder(operation: Operation, view: lock.View) -> Fingerprint | None:
    """The fingerprint of the lock's holder, where that is another request. It may be dead, or
    have no claim, so this refuses nobody unless the ledger says that the key is taken."""
    holder = view.fingerprint if isinstance(view, Busy) else None
    return holder if holder is not None and operation.mismatch(holder) else None


def _inherited(operation: Operation, view: lock.View) -> lock.View:
    """The lock, where the ledger has told that its holder does not have the key."""
    if isinstance(view, Busy):
        return lock.inherit(operation.identity, view, operation.payload.fingerprint)
    return view


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
