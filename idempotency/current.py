"""The execution that runs here: its claim, its transactions, and whether it still has its lease."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from django.dispatch import Signal

from idempotency.exceptions import LeaseLost
from idempotency.heartbeat import Heartbeat
from idempotency.keys import running
from idempotency.outcomes import Candidate, Claimed, JobRun
from idempotency.work import Work


@dataclass(slots=True)
class Execution:
    """One execution under a key. Belongs to one thread."""

    claimed: Claimed
    candidate: Candidate
    using: str
    #: The transactions of a leased execution or a job; `None` in an atomic one.
    work: Work | None = None
    #: Renews the lease and writes the progress, where there is one.
    heartbeat: Heartbeat | None = None
    #: The job that this is, and how much of how much it says it has done.
    job: JobRun | None = None
    progress: tuple[int, int] | None = None
    #: Sends the message of the job that the handler has started, after the commit; a savepoint
    #: that is undone takes both along.
    message: Callable[[], None] | None = None

    def check(self) -> None:
        """Raises LeaseLost where somebody else has the key by now."""
        if self.work is not None and self.work.settled:
            return  # to a heartbeat that comes now, our own end looks like another's
        if self.heartbeat is not None and self.heartbeat.lost:
            raise LeaseLost(
                f"record {self.claimed.record_id} is no longer ours at attempt"
                f" {self.claimed.attempt}: stop, nothing that is written now will stay"
            )


#: Sent with `operation` and `change`: 1 as an execution begins in this process, -1 as it ends. For
#: gauges; what came of it is told by `idempotency.events.recorded`.
executing: Final = Signal()

_current: ContextVar[Execution] = ContextVar("idempotency_current")


@contextmanager
def entered(execution: Execution) -> Iterator[Execution]:
    """Make it the current one, for its child keys too, while the block runs."""
    identity = execution.candidate.identity
    token = _current.set(execution)
    _tell(execution, 1)
    try:
        with running(identity.key, identity.scope_digest):
            yield execution
    finally:
        _tell(execution, -1)
        _current.reset(token)


def _tell(execution: Execution, change: int) -> None:
    if executing.receivers:
        operation = execution.candidate.operation
        executing.send_robust(sender=Execution, operation=operation, change=change)


def current() -> Execution:
    """The execution that runs here. LookupError where none does."""
    try:
        return _current.get()
    except LookupError:
        raise LookupError(
            "No execution under an idempotency key runs here. Ask inside a protected handler, for a"
            " request that carries a key, or inside a job, and in its own thread: another thread"
            " must run in contextvars.copy_context()."
        ) from None


def current_attempt() -> int:
    """The fencing token of the execution that runs here: it rises with every change of owner.

    Send it to resources that can refuse an older one. Raises LookupError where no execution runs,
    and LeaseLost once another has taken this one's place.
    """
    execution = current()
    execution.check()
    return execution.claimed.attempt
