"""The transactions of a leased execution: one around all of it, or one for each step.

It begins as one. The first step ends that one, which must not have written anything yet, and from
then on whatever is written belongs into a step, because nothing else could be undone or resumed.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from django.db import connections, transaction

from idempotency import events
from idempotency.documents import decode, encode
from idempotency.exceptions import LeaseLost, StepChanged, StepMisplaced
from idempotency.keys import derive_child_key, running
from idempotency.layers import leases, link, steps
from idempotency.layers.steps import FinishedStep
from idempotency.outcomes import Candidate, Claimed

Result = TypeVar("Result")

#: Statements that change nothing that a rollback would have to undo; a union begins with `(`.
_READS: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*+"
    r"(?:(with)|select|values|show|explain|set|savepoint|release|rollback)\b",
    re.IGNORECASE | re.DOTALL,
)
#: What a WITH may hold.
_CHANGES: Final = re.compile(r"\b(?:insert|update|delete|merge)\b", re.IGNORECASE)


class Work:
    """The transactions of one claimed and committed execution, as a context manager.

    Leaving it commits what is still open, or rolls it back where an exception is on its way.
    """

    def __init__(self, claimed: Claimed, candidate: Candidate, *, using: str) -> None:
        self._claimed = claimed
        self._candidate = candidate
        self._using = using
        self._connection = connections[using]
        self._stack = ExitStack()
        self._outer: transaction.Atomic | None = None
        self._wrote = False
        #: Whether the open transaction has its limit of silence.
        self._limited = False
        #: Whether what runs now is a step, or our own.
        self._inside = False
        self._finished: list[FinishedStep] | None = None
        #: The steps of this attempt so far, in their order.
        self._names: dict[str, None] = {}
        self._hooks = 0
        #: Whether the end of the execution is written: nobody can take over from there on.
        self.settled = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._connection.execute_wrapper(self._watch))
            self._outer = transaction.atomic(using=self._using, durable=True)
            self._outer.__enter__()
            self._stack = stack.pop_all()
        self._depth = len(self._connection.atomic_blocks)
        self._hooks = len(self._connection.run_on_commit)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._stack, self._own():  # hooks may write, and begin no step
            if self._outer is not None:
                self._outer.__exit__(kind, error, traceback)

    def undo(self) -> None:
        """Have what is not committed rolled back, although no exception says so."""
        if self._outer is not None:
            transaction.set_rollback(True, using=self._using)

    def settle(self, finish: Callable[[], Result]) -> Result:
        """Write the end of the execution, with its effects or, after steps, by itself.

        Raises StepChanged where an earlier attempt has done steps that this one left out.
        """
        if self._finished is None and self._claimed.attempt > 1:
            self._finished = steps.finished(self._claimed.record_id, using=self._using)
        if self._finished is not None and len(self._names) < len(self._finished):
            left_out = self._finished[len(self._names)].name
            raise StepChanged(
                f"The execution has ended, and left out the step {left_out!r} that an earlier"
                " attempt has done: its code has changed since. Put the step back."
            )
        with self._own(), ExitStack() as stack:
            if self._outer is None:
                stack.enter_context(self._transaction())
            result = finish()
            self.settled = True
            return result

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of a step, run now or by an earlier attempt; see `idempotency.jobs.step`."""
        child = derive_child_key(self._candidate.identity.key, name)
        if connections[self._using] is not self._connection:
            raise StepMisplaced(
                f"The step {name!r} runs in another thread than its execution, on a connection"
                " that has none of its transactions: call it in the execution's own."
            )
        if self._inside:
            raise StepMisplaced(
                f"The step {name!r} stands inside another step, or in a hook that runs after a"
                " commit: call it after that step."
            )
        if name in self._names:
            raise ValueError(
                f"There are two steps {name!r} in this execution: each needs a name of its own,"
                " from which its child key is derived."
            )
        self._begin_steps(name)
        assert self._finished is not None  # noqa: S101 - _begin_steps has seen to it
        place = len(self._names)
        if place < len(self._finished):
            kept = self._finished[place]
            if kept.name != name:
                raise StepChanged(
                    f"Step {place + 1} is {name!r}, and an earlier attempt has done {kept.name!r}"
                    " there: the code has changed since. Put the steps back into their order."
                )
            self._report(events.STEP_SKIPPED)
            self._names[name] = None
            result = kept.result
        else:
            result = self._run(child, name, place, lambda: function(*args, **kwargs))
            self._report(events.STEP_DONE)
        return decode(result)

    def _run(self, child: str, name: str, place: int, function: Callable[[], Any]) -> str:
        using = self._using
        with self._own(), self._transaction():
            # First of the hooks, because a later one may raise although the step is done.
            transaction.on_commit(lambda: self._names.update({name: None}), using=using)
            with running(child, self._candidate.identity.scope_digest):
                value = function()
            result = encode(value, f"The result of the step {name!r}")
            # The fence, and a renewal: nobody takes over until this transaction has ended.
            lease = self._candidate.lease or 0.0
            if not leases.renew(self._claimed, lease, using=using):
                raise LeaseLost(f"record {self._claimed.record_id} was lost in the step {name!r}")
            steps.add(self._claimed, place, FinishedStep(name, result), using=using)
        self._names[name] = None  # a TestCase runs no hooks
        return result

    def _begin_steps(self, name: str) -> None:
        if len(self._connection.atomic_blocks) > self._depth:
            raise StepMisplaced(
                f"The step {name!r} stands inside an atomic block, so it could not commit by"
                " itself: take it out of there."
            )
        if self._outer is None:
            return
        if self._wrote:
            raise StepMisplaced(
                f"Something was written before the first step, {name!r}: a resumed attempt would"
                " write it again. Put that into a step, too."
            )
        if len(self._connection.run_on_commit) > self._hooks:
            raise StepMisplaced(
                f"An on_commit hook was registered before the first step, {name!r}, and there is"
                " nothing to commit there: register it in a step."
            )
        # Undone, not committed: what wrote unseen, a function in a query, would write again.
        transaction.set_rollback(True, using=self._using)
        outer, self._outer = self._outer, None
        outer.__exit__(None, None, None)
        self._depth -= 1
        self._finished = steps.finished(self._claimed.record_id, using=self._using)

    @contextmanager
    def _own(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._limited = False
        with transaction.atomic(using=self._using, durable=True):
            yield

    def _limit_silence(self) -> None:
        """Have the server end the transaction of a host that has vanished. With its first statement
        only: until then there is none, however long the outside world takes to answer."""
        if not self._limited and self._connection.in_atomic_block:
            self._limited = True
            longest = max(self._candidate.silence, self._candidate.lease or 0.0)
            link.limit_silence(longest, using=self._using)

    def _watch(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self._limit_silence()
        if not self._inside and _writes(self._text(sql)):
            if self._outer is None:
                raise StepMisplaced(
                    "Something is written outside the steps of an execution that has steps: it"
                    " could be neither undone nor resumed. Put it into a step."
                )
            self._wrote = True
        return execute(sql, params, many, context)

    def _text(self, sql: Any) -> str:
        if hasattr(sql, "as_string"):  # composed with psycopg's `sql`
            return str(sql.as_string(self._connection.connection))
        return sql.decode() if isinstance(sql, bytes) else str(sql)

    def _report(self, name: str) -> None:
        # Without the step's name: there may be as many as there are students.
        digest = self._candidate.identity.digest
        events.record(events.Event(name, self._candidate.operation, digest=digest))


def _writes(sql: str) -> bool:
    reads = _READS.match(sql)
    return reads is None or (reads[1] is not None and _CHANGES.search(sql) is not None)
