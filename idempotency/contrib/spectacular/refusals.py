"""The refusals that a policy can give, as responses with an example for each code."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from drf_spectacular.openapi import AutoSchema

from idempotency.conf import conf
from idempotency.contrib.spectacular import headers
from idempotency.contrib.spectacular.documents import IdempotencyProblem
from idempotency.exceptions import (
    PROBLEM_JSON,
    IdempotencyError,
    InProgress,
    KeyExpired,
    KeyInvalid,
    KeyRequired,
    KeyReused,
    OutcomeUnknown,
    ReplyNotKept,
    Unavailable,
)
from idempotency.execution import RETRY_AFTER
from idempotency.policy import Terms


def refusals_of(terms: Terms) -> Iterator[IdempotencyError]:
    """What a request under these terms may be refused with."""
    if terms.mode != "observe":
        if terms.required:
            yield KeyRequired()
        yield KeyInvalid()
        yield KeyReused(status=conf.IDEMPOTENCY_MISMATCH_STATUS, mismatched_fields=["amount"])
        yield InProgress(retry_after=RETRY_AFTER)
        if terms.tombstone > 0:
            yield KeyExpired()
        yield ReplyNotKept()
        if terms.on_abandoned == "hold":
            yield OutcomeUnknown()
    yield Unavailable(retry_after=RETRY_AFTER)


def add_refusals(
    operation: dict[str, Any], refusals: Iterable[IdempotencyError], schema: AutoSchema
) -> None:
    """Adds them to an operation's responses; what it says of a status already stands beside."""
    by_status: defaultdict[str, list[IdempotencyError]] = defaultdict(list)
    for refusal in refusals:
        by_status[str(refusal.status_code)].append(refusal)
    component = schema.resolve_serializer(IdempotencyProblem, "response").ref
    for status, group in by_status.items():
        response = operation["responses"].setdefault(status, {})
        if not response.get("description"):
            response["description"] = "\n".join(
                f"* `{each.default_code}`: {each.title}." for each in group
            )
        content = response.setdefault("content", {})
        for media_type in _media_types(schema):
            content.setdefault(media_type, {"schema": component, "examples": _examples(group)})
        if any(hasattr(each, "wait") for each in group):
            response.setdefault("headers", {}).setdefault("Retry-After", headers.RETRY_AFTER)
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _media_types(schema: AutoSchema) -> list[str]:
    """As the mixin labels them: JSON as problem details, anything else as it is."""
    return [
        PROBLEM_JSON if each == "application/json" else each
        for each in schema.map_renderers("media_type")
    ]


def _examples(refusals: Iterable[IdempotencyError]) -> dict[str, Any]:
    return {
        each.default_code: {"summary": each.title, "value": each.problem()} for each in refusals
    }
