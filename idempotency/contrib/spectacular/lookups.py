"""The views of `idempotency.urls`, which have no serializer to read a schema from."""

from functools import lru_cache
from typing import Any, Final

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)

from idempotency.contrib.spectacular import headers
from idempotency.contrib.spectacular.documents import IdempotencyJob, IdempotencyKeyOutcome
from idempotency.contrib.spectacular.operations import add_parameters, job_document
from idempotency.contrib.spectacular.refusals import add_refusals
from idempotency.contrib.spectacular.views import Telling, told
from idempotency.exceptions import (
    InProgress,
    KeyExpired,
    KeyInvalid,
    OutcomeUnknown,
    ReplyNotKept,
    Unavailable,
)
from idempotency.execution import RETRY_AFTER
from idempotency.identity import MAX_OPERATION, OPERATION_CHARACTER
from idempotency.keys import MAX_KEY_LENGTH

_NOT_FOUND: Final = OpenApiResponse(
    {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]},
    description="There is none, or it is another caller's.",
)
_WRONG: Final = OpenApiResponse(
    {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    description="The key or a parameter is wrong.",
)
_KEY_PARAMETERS: Final = [
    OpenApiParameter(
        "key",
        {"type": "string", "pattern": f"^[ -~]{{1,{MAX_KEY_LENGTH}}}$"},
        OpenApiParameter.PATH,
        description="The key, without the quotes that it may have in the header.",
    ),
    OpenApiParameter(
        "operation",
        {"type": "string", "pattern": f"^{OPERATION_CHARACTER}{{1,{MAX_OPERATION}}}$"},
        required=True,
        description="The operation that the key was sent to.",
    ),
    OpenApiParameter(
        "reply",
        OpenApiTypes.STR,
        enum=["1"],
        description="Asks for the reply itself, as a retry would get it.",
    ),
]


_KEY: Final = extend_schema(
    parameters=_KEY_PARAMETERS,
    responses={200: IdempotencyKeyOutcome, 400: _WRONG, 404: _NOT_FOUND},
)
_JOB: Final = extend_schema(responses={200: IdempotencyJob, 404: _NOT_FOUND})


def _tell_key(operation: dict[str, Any], view: Any, schema: AutoSchema) -> None:
    add_parameters(operation, [headers.scope()])
    unavailable = Unavailable(retry_after=RETRY_AFTER)
    running = InProgress(retry_after=RETRY_AFTER)
    refusals = (KeyInvalid(), running, KeyExpired(), ReplyNotKept(), OutcomeUnknown(), unavailable)
    responses = operation["responses"]
    # A stored reply may have this status, too.
    content = responses["200"]["content"]["application/json"]
    content["schema"] = {"anyOf": [content["schema"], {}]}
    responses["202"] = {
        "description": "With `reply=1`: a job is queued or running.",
        "headers": {"Retry-After": headers.RETRY_AFTER},
        "content": job_document(schema),
    }
    responses["default"] = {"description": "With `reply=1`: the stored reply."}
    add_refusals(operation, refusals, schema)


def _tell_job(operation: dict[str, Any], view: Any, schema: AutoSchema) -> None:
    add_parameters(operation, [headers.scope()])
    operation["responses"]["200"]["headers"] = {"Retry-After": headers.RETRY_AFTER}
    add_refusals(operation, [Unavailable(retry_after=RETRY_AFTER)], schema)


class KeyLookups(OpenApiViewExtension):  # type: ignore[no-untyped-call] # theirs
    """What came of a key."""

    target_class = "idempotency.lookup.KeyLookup"
    match_subclasses = True  # a project that names its callers itself routes classes of its own

    def view_replacement(self) -> Any:
        """The view with a schema."""
        return _described(self.target, _KEY, _tell_key)


class JobLookups(OpenApiViewExtension):  # type: ignore[no-untyped-call] # theirs
    """How far a job is."""

    target_class = "idempotency.lookup.JobLookup"
    match_subclasses = True  # the same

    def view_replacement(self) -> Any:
        """The view with a schema."""
        return _described(self.target, _JOB, _tell_job)


@lru_cache(maxsize=64)  # once for each: descriptions of one class would pile up
def _described(view: Any, said: Any, telling: Telling) -> Any:
    if "schema" in getattr(view.get, "kwargs", {}):
        return view  # the project has described its own
    described = told(view, telling)
    extend_schema_view(get=said)(described)
    return described
