"""`once`: one committed execution for each event, however often its message is delivered.

A delivery goes through the same protocol as a request under a key: same ledger, lock and cache.
The key names the event; its record is the line in the table of processed events.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Final, NoReturn, TypeVar

from asgiref.sync import iscoroutinefunction
from django.db import connections
from django.db.transaction import TransactionManagementError
from django.http import HttpResponse

from idempotency import protocol
from idempotency.documents import decode, encode
from idempotency.event_keys import KeySource, checked_key, key_reader
from idempotency.exceptions import IdempotencyError, InProgress, KeyExpired, Unavailable
from idempotency.execution import raise_again
from idempotency.fingerprint import Fingerprint, Payload
from idempotency.identity import check_operation
from idempotency.layers import ledger, link
from idempotency.operation import Operation
from idempotency.outcomes import Identity
from idempotency.policy import Policy

Consumer = TypeVar("Consumer", bound=Callable[..., Any])

#: The caller in the scope of events. In a request's scope nothing but a digest follows a `+`, so
#: no request can meet an event.
_CALLER: Final = "+once"


class _Delivery(Payload):
    """What is compared of two deliveries: nothing. Brokers add metadata to the same event."""

    def mismatch(self, stored: Fingerprint, *, forgive_body: bool) -> None:
        return None


def once(
    *, operation: str, key: KeySource, policy: Policy | None = None
) -> Callable[[Consumer], Consumer]:
    """Carry out each event once, however often it is delivered.

        @shared_task(acks_late=True)
        @once(operation="payment-received", key="event.id")
        def receive_payment(event): ...

    `operation` names the kind of event. `key` names the event among its kind: a dotted path into
    the arguments ("event_id", "message.headers.id": a parameter, then keys of mappings, indexes
    of lists or attributes), or a callable that takes the same arguments and gives the key. A key
    is an int, or a text of 1 to 255 printable ASCII characters. Nothing else of two deliveries is
    compared.

    The first delivery runs in one transaction that also stores its result. It and each duplicate
    return that result, as it comes back from JSON. An exception undoes everything and frees the
    key; so do Celery's Retry, Ignore and Reject.

    Of the policy, `using`, `ttl`, `tombstone`, `in_flight`, `wait_timeout`, `key_format` and
    `mode` count. An event is new again after `ttl` and `tombstone` together: let them outlast what
    the broker, or an operator's replay, may still deliver.

    On a function, a call may raise, besides the function's own errors:

    - InProgress, Unavailable: it must come again, so do not acknowledge it;
    - KeyExpired: it was done, but `ttl` is over and its result gone, so acknowledge it;
    - ValueError: the key is missing or unusable, or the result larger than IDEMPOTENCY_MAX_BODY,
      so that no duplicate could have it; TypeError: the result is not JSON;
    - TransactionManagementError: it was called inside an open transaction, which could undo the
      record later, or the function marked or broke its own.

    On a Celery task the same, where it is called. Where a worker runs it for a message, the first
    two send the message again, a second later; that uses up one of the task's retries only if
    the function had begun. KeyExpired becomes Ignore.

    `once` may also stand above `@shared_task`; that makes the current Celery app ready at once.

    Raises ValueError for a bad operation, path or policy (only `execution="atomic"`), and TypeError
    for what is no Policy, no key or no synchronous function.
    """
    check_operation(operation)
    promised = Policy() if policy is None else policy
    if not isinstance(promised, Policy):
        raise TypeError(f"once takes a Policy, not {policy!r}.")
    if promised.execution != "atomic":
        raise ValueError(
            f"once({operation!r}): the effects of a delivery commit with its record, so its policy"
            f" must have execution='atomic', not {promised.execution!r}."
        )

    def decorate(consumer: Consumer) -> Consumer:
        if hasattr(consumer, "apply_async"):
            _protect_task(consumer, protect)
            return consumer
        protected: Consumer = protect(consumer)
        return protected

    def protect(function: Any) -> Any:
        if not callable(function) or iscoroutinefunction(function):
            raise TypeError(f"once decorates synchronous functions, and {function!r} is none.")
        key_of = key_reader(operation, key, function)

        @wraps(function)
        def consume(*args: Any, **kwargs: Any) -> Any:
            terms, using = promised.resolve(), ledger.alias(promised.using)
            _refuse_open_transaction(operation, using)
            event = checked_key(operation, key_of(args, kwargs), terms)
            run = _Run(operation, using, partial(function, *args, **kwargs))
            asked = Operation(
                name=operation,
                identity=Identity(f"{_CALLER}/{operation}", event, using),
                payload=_Delivery(route=b"", body=b""),
                terms=terms,
                using=using,
            )
            try:
                answer: Any = protocol.run(asked, run, raise_again)
            except (InProgress, Unavailable, KeyExpired) as refusal:
                # No request begins or ends here, where Django would replace a broken connection.
                if not link.in_transaction(using=using):  # else it is a TestCase's
                    connections[using].close_if_unusable_or_obsolete()
                if refusal is not run.error and (task := _carried_out(consume)) is not None:
                    _settle(task, refusal, begun=run.begun)
                raise
            return decode(answer.content.decode())

        # `wraps` alone would hide it from Celery, which checks arguments when a message is sent.
        consume.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return consume

    return decorate


def _refuse_open_transaction(operation: str, using: str) -> None:
    """Django's own test for durable blocks: the transaction of a TestCase does not count."""
    blocks: Any = connections[using].atomic_blocks
    if blocks and not blocks[-1]._from_testcase:
        raise TransactionManagementError(
            f"once({operation!r}) was called inside an open transaction on {using!r}, which could"
            " still undo its record. Call it outside, or from transaction.on_commit()."
        )


@dataclass(slots=True)
class _Run:
    """The function's run for one delivery, which a duplicate never begins."""

    operation: str
    using: str
    function: Callable[[], object]
    begun: bool = False
    #: A refusal of something that the function called: it says nothing of this event.
    error: IdempotencyError | None = None

    def __call__(self) -> HttpResponse:
        self.begun = True
        try:
            result = self.function()
        except IdempotencyError as error:
            self.error = error
            raise
        answer = HttpResponse(encode(result, f"The result of once({self.operation!r})"))
        del answer["Content-Type"]  # nobody reads it, and it counts where the size is limited
        if link.doomed(using=self.using):
            # Returned as a success, it would have its message acknowledged, and nothing done.
            raise TransactionManagementError(
                f"once({self.operation!r}): the function marked its transaction for rollback, or"
                " swallowed a database error that broke it, so nothing of it is kept. Raise an"
                " exception instead."
            )
        return answer


def _protect_task(task: Any, protect: Callable[[Any], Any]) -> None:
    """Protect what a Celery task runs, and the copies that other apps of the process have of it."""
    from celery import _state  # noqa: PLC0415 - optional; where shared tasks meet their apps

    name, original = task.name, _innermost(task.run)
    protected: set[Any] = set()

    def protect_copy(copy: Any) -> None:
        if copy is not None and copy.run not in protected and _innermost(copy.run) is original:
            copy.run = protect(copy.run)
            protected.add(copy.run)

    def when_finalized(app: Any) -> None:
        app.on_after_finalize.connect(
            lambda **kwargs: protect_copy(app.tasks.get(name)), weak=False
        )

    protect_copy(task)
    for app in list(_state._get_active_apps()):
        if app.finalized:
            protect_copy(app.tasks.get(name))
    _state.connect_on_app_finalize(when_finalized)


def _carried_out(consume: Any) -> Any | None:
    """The Celery task that runs `consume` for a message; `None` in any other call."""
    try:
        from celery import current_task  # noqa: PLC0415 - optional
    except ImportError:
        return None
    if not current_task or current_task.request.called_directly or current_task.request.is_eager:
        return None
    run = inspect.unwrap(current_task.run, stop=lambda wrapped: _function(wrapped) is consume)
    return current_task if _function(run) is consume else None


def _innermost(run: Any) -> Any:
    """The project's own function, that all copies of a task share."""
    return _function(inspect.unwrap(run))


def _function(run: Any) -> Any:
    """What a bound method runs; anything else itself."""
    return getattr(run, "__func__", run)


def _settle(task: Any, refusal: IdempotencyError, *, begun: bool) -> NoReturn:
    """Let the message come again, unless its event is done."""
    from celery.exceptions import Ignore, Reject, Retry  # noqa: PLC0415 - optional

    if isinstance(refusal, KeyExpired):
        raise Ignore(str(refusal)) from refusal
    # Not task.retry(): a message whose turn has not come must not be given up. One that loses its
    # connection each time it runs must.
    retries = task.request.retries + begun
    if begun and task.max_retries is not None and retries > task.max_retries:
        raise refusal
    again = task.signature_from_request(countdown=refusal.wait, retries=retries)
    try:
        again.apply_async()
    except task.OperationalError as error:
        if task.acks_late:
            raise Reject(error, requeue=True) from refusal  # the broker still has the first one
        raise
    raise Retry(exc=refusal, when=refusal.wait, sig=again) from refusal
