"""The protocol: at most one committed execution for every (scope, key).

The handler's effects and its reply commit together, in one transaction that begins with the claim
and ends with the finish. Before it stand the cache (is there a reply?) and the lock (is somebody
on it?); both may be absent, and neither decides that a request is new.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, transaction
from django.http.response import HttpResponseBase

from idempotency import events, replies
from idempotency.conf import conf
from idempotency.crowd import Waiter
from idempotency.exceptions import (
    IdempotencyError,
    InProgress,
    KeyExpired,
    KeyReused,
    LeaseLost,
    ReplyNotKept,
    Unavailable,
)
from idempotency.fingerprint import Fingerprint
from idempotency.keys import running
from idempotency.layers import ledger, lock
from idempotency.operation import Operation
from idempotency.outcomes import (
    Busy,
    Claimed,
    Expired,
    Finished,
    Held,
    InFlight,
    Off,
    StoredReply,
)

#: Runs the protected action and gives its rendered response.
Handler = Callable[[], HttpResponseBase]
#: Turns an error of the handler into its rendered response, or raises it again.
ErrorHandler = Callable[[Exception], HttpResponseBase]

#: Seconds a client should let pass before it asks again.
RETRY_AFTER = 1.0
#: Claims in a row before "perhaps a neighbour's lock" counts as "in progress".
UNCERTAIN_CLAIMS = 5


@dataclass(frozen=True, slots=True)
class Done:
    """The handler ran and its transaction has ended; `stored` is what may be published."""

    response: HttpResponseBase
    stored: StoredReply | None


def run(operation: Operation, handler: Handler, on_error: ErrorHandler) -> HttpResponseBase:
    """The reply of the one execution of this operation under its key, run now or stored.

    `handler` runs inside the transaction, at most once. `on_error` renders an error that the
    policy may remember. Raises an IdempotencyError where the request is refused, and the
    handler's own exceptions untouched.
    """
    log = _Log(operation)
    try:
        if operation.terms.mode == "observe":
            return _observe(operation, handler, log)
        return _enforce(operation, handler, on_error, log)
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
        if _undoing(response, using) is not None:
            transaction.set_rollback(True, using=using)
    return response


def _enforce(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: "_Log"
) -> HttpResponseBase:
    view = lock.enter(operation.identity, operation.payload.fingerprint)
    publish: StoredReply | None = None
    waits = operation.terms.in_flight == "wait"
    uncertain = 0
    with Waiter(operation.terms.wait_timeout) as waiter:
        try:
            while True:
                if isinstance(view, StoredReply):
                    return _replay(operation, view, "cache", waiter, log)
                if isinstance(view, Busy) and view.fingerprint is not None:
                    _refuse_mismatch(operation, view.fingerprint)
                # A holder that was just met is most likely alive: wait first, then look.
                just_met = isinstance(view, Busy) and waits and not waiter.waited
                if not (just_met and waiter.may_wait()):
                    match _attempt(operation, handler, on_error, log):
                        case Done(response, stored):
                            publish = stored
                            return response
                        case Finished(stored):
                            publish = stored
                            log.caught(view)
                            return _replay(operation, stored, "ledger", waiter, log)
                        case Expired():
                            raise KeyExpired
                        case InFlight(certain):
                            log.caught(view)
                    if not certain and uncertain < UNCERTAIN_CLAIMS:
                        uncertain += 1
                    elif not (waits and waiter.may_wait()):
                        raise InProgress(retry_after=RETRY_AFTER)
                view = _next_view(operation, view, waiter)
        finally:
            if isinstance(view, Held | Off):
                _leave(operation, view, publish)


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


def _leave(operation: Operation, view: Held | Off, reply: StoredReply | None) -> None:
    """Publish and release, after the commit. A TestCase's transaction never commits."""
    if reply is not None and ledger.in_transaction(using=operation.using):
        reply = None
    lock.leave(operation.identity, view, reply)


def _attempt(
    operation: Operation, handler: Handler, on_error: ErrorHandler, log: "_Log"
) -> Done | Finished | Expired | InFlight:
    """One transaction that begins with the claim: the execution, or a look at who has the key."""
    using = operation.using
    before = None
    try:
        with transaction.atomic(using=using, durable=True):
            before = ledger.link(using=using)
            verdict = ledger.claim(operation.candidate, using=using)
            if not isinstance(verdict, Claimed):
                return verdict
            done = _execute(operation, verdict, handler, on_error, log)
    except LeaseLost as error:
        log.record(events.LEASE_LOST)
        raise Unavailable(retry_after=RETRY_AFTER) from error
    except (DatabaseError, InterfaceError) as error:
        # Refused is the handler's own error; no answer at all is an outcome that nobody knows.
        if ledger.unreachable(error, using=using, before=before):
            raise Unavailable(retry_after=RETRY_AFTER) from error
        raise
    if done.stored is not None:
        log.record(events.EXECUTED)
    return done


def _execute(
    operation: Operation, claimed: Claimed, handler: Handler, on_error: ErrorHandler, log: "_Log"
) -> Done:
    """Run the handler under its claim; store the reply with its effects, or undo both."""
    using = operation.using
    with running(operation.identity.key, operation.scope_digest):
        if operation.terms.remember_errors:
            response, undoing = _handle_errors(operation, handler, on_error)
        else:
            response, undoing = handler(), None
    undoing = undoing or _undoing(response, using)
    if undoing is not None:
        log.record(undoing.event, undoing.detail)
        transaction.set_rollback(True, using=using)
        return Done(response, None)
    reply = replies.capture(response)
    return Done(response, ledger.finish(claimed, operation.candidate, reply, using=using))


@dataclass(frozen=True, slots=True)
class _Undoing:
    """Why the work is undone although there is a response."""

    event: str
    detail: str


def _undoing(response: HttpResponseBase, using: str) -> _Undoing | None:
    if replies.has_failed(response):
        return _Undoing(events.FAILED, str(response.status_code))
    if ledger.doomed(using=using):
        return _Undoing(events.ROLLED_BACK, str(response.status_code))
    return None


class _Undone(Exception):
    """Carries a response out of the savepoint that its exception undoes."""

    def __init__(self, response: HttpResponseBase, undoing: _Undoing | None) -> None:
        self.response = response
        self.undoing = undoing


def _handle_errors(
    operation: Operation, handler: Handler, on_error: ErrorHandler
) -> tuple[HttpResponseBase, _Undoing | None]:
    """The handler in a savepoint, so that a remembered error outlives what it undoes."""
    using = operation.using
    try:
        with transaction.atomic(using=using):
            try:
                response = handler()
            except Exception as error:
                rendered = on_error(error)
                remembered = rendered.status_code in operation.terms.remember_errors
                undoing = None if remembered else _Undoing(events.FAILED, type(error).__name__)
                raise _Undone(rendered, undoing) from error
            # Left to the savepoint, a mark would be forgotten and a success stored for no work.
            undoing = _undoing(response, using)
            if undoing is not None:
                raise _Undone(response, undoing)
    except _Undone as undone:
        return undone.response, undone.undoing
    return response, None


def _observe(operation: Operation, handler: Handler, log: "_Log") -> HttpResponseBase:
    """Run it whatever the ledger says, and count what would have happened."""
    using = operation.using
    with transaction.atomic(using=using, durable=True):
        verdict = ledger.claim(operation.candidate, using=using)
        with running(operation.identity.key, operation.scope_digest):
            response = handler()
        undoing = _undoing(response, using)
        if undoing is not None:
            log.record(undoing.event, undoing.detail)
            transaction.set_rollback(True, using=using)
        elif isinstance(verdict, Claimed):
            reply = replies.capture_if_possible(response)
            ledger.finish(verdict, operation.candidate, reply, using=using)
    log.record(events.OBSERVED, _would_be(operation, verdict))
    return response


def _would_be(operation: Operation, verdict: ledger.Verdict) -> str:
    match verdict:
        case Claimed():
            return events.EXECUTED
        case Finished(stored):
            try:
                _refuse_mismatch(operation, stored.fingerprint)
            except IdempotencyError as refusal:
                return refusal.default_code
            return events.REPLAYED
        case Expired():
            return KeyExpired.default_code
        case InFlight():
            return InProgress.default_code


def _replay(
    operation: Operation, stored: StoredReply, layer: str, waiter: Waiter, log: "_Log"
) -> HttpResponseBase:
    _refuse_mismatch(operation, stored.fingerprint)
    if stored.body is None:
        raise ReplyNotKept
    if waiter.waited:
        log.record(events.WAITED)
    log.record(events.REPLAYED, layer)
    return replies.replay(stored)


def _refuse_mismatch(operation: Operation, fingerprint: Fingerprint) -> None:
    """Raises KeyReused where the key stands for another request than this one."""
    forgive = operation.terms.forgives_body
    mismatch = operation.payload.mismatch(fingerprint, forgive_body=forgive)
    if mismatch is not None:
        raise KeyReused(status=conf.IDEMPOTENCY_MISMATCH_STATUS, mismatched_fields=mismatch.fields)


class _Log:
    """Reports what happens to one request."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._started = time.monotonic()
        self._caught = False

    def record(self, name: str, detail: str = "") -> None:
        events.record(
            events.Event(
                name,
                self._operation.name,
                detail,
                self._operation.identity.digest,
                time.monotonic() - self._started,
            )
        )

    def caught(self, view: lock.View) -> None:
        """The ledger stopped what cache and lock let through; told once a request."""
        if not self._caught and not isinstance(view, Busy):
            self._caught = True
            self.record(events.CONSTRAINT_CAUGHT)
