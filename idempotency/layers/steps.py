"""The finished steps of an execution; each row is written in the transaction of its effects."""

from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from idempotency.layers import encryption
from idempotency.layers.clock import ServerNow
from idempotency.models import State, Step
from idempotency.outcomes import Claimed


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that an earlier attempt, or this one, has committed."""

    name: str
    #: Its result as JSON.
    result: str


def finished(record_id: int, *, using: str) -> list[FinishedStep]:
    """The steps of an execution in their order.

    Raises ImproperlyConfigured where a result cannot be decrypted: the step must not run again.
    """
    done = Step.objects.using(using).filter(record=record_id).order_by("position")
    rows = done.values_list("name", "result")
    return [FinishedStep(name, _opened(result)) for name, result in rows]


def any_finished(record_id: int, *, using: str) -> bool:
    """Whether an execution has done any step."""
    return Step.objects.using(using).filter(record=record_id).exists()


def state_without_reply(record_id: int, *, using: str) -> State:
    """What becomes of an execution that is given up: with steps, only the same request resumes it;
    without, its key is free."""
    return State.ABANDONED if any_finished(record_id, using=using) else State.RELEASED


def add(claimed: Claimed, position: int, step: FinishedStep, *, using: str) -> None:
    """Record a step. The caller's transaction has asked for the fence."""
    Step.objects.using(using).create(
        record_id=claimed.record_id,
        position=position,
        name=step.name,
        result=encryption.seal_text(step.result),
        attempt=claimed.attempt,
        created_at=ServerNow(),
    )


def _opened(stored: str) -> str:
    result = encryption.unseal_text(stored, "step")
    if result is None:
        raise ImproperlyConfigured(
            "IDEMPOTENCY_ENCRYPTION_KEYS lacks the key under which an earlier attempt has stored"
            " the result of a step. Put the key back, behind the first one."
        )
    return result
