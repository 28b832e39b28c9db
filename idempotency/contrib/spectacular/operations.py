"""A protected operation, told what its policy adds to it."""

from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from django.urls import NoReverseMatch, reverse
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import spectacular_settings

from idempotency.contrib.spectacular import headers
from idempotency.contrib.spectacular.documents import IdempotencyJob
from idempotency.contrib.spectacular.refusals import add_refusals, refusals_of
from idempotency.documents import JSON_TYPE
from idempotency.policy import Terms

_QUEUED: Final = "A job is queued or running. The same request, sent again, tells how far it is."
_ENDED: Final = "The job has ended: it succeeded, failed or was cancelled."


def protect(operation: dict[str, Any], terms: Terms, schema: AutoSchema) -> None:
    """Adds headers, the replies of jobs, and refusals; what is there already stands."""
    add_parameters(operation, [headers.key(terms), headers.scope()])
    if terms.execution == "job":
        _add_job(operation, schema)
    add_refusals(operation, refusals_of(terms), schema)
    if terms.mode != "observe":
        _add_replayed(operation, terms)


def add_parameters(operation: dict[str, Any], parameters: list[dict[str, Any]]) -> None:
    """Adds header parameters that the operation does not have."""
    given = operation.setdefault("parameters", [])
    known = {each["name"].lower() for each in given if each["in"] == "header"}
    given += [each for each in parameters if each["name"].lower() not in known]
    order = spectacular_settings.SORT_OPERATION_PARAMETERS
    if order:
        given.sort(key=order if callable(order) else lambda each: each["name"])


def job_document(schema: AutoSchema) -> dict[str, Any]:
    """The content of a response that is a job's document."""
    return {JSON_TYPE: {"schema": schema.resolve_serializer(IdempotencyJob, "response").ref}}


def _add_job(operation: dict[str, Any], schema: AutoSchema) -> None:
    responses: dict[str, Any] = operation["responses"]
    if not isinstance(schema.get_response_serializers(), dict):
        # Taken from the view's serializer: what such an action answers is a job's document.
        for status in [each for each in responses if each.startswith("2")]:
            del responses[status]
    where = {"Retry-After": headers.RETRY_AFTER}
    with suppress(NoReverseMatch):
        reverse("idempotency:job", args=[UUID(int=0)])
        where["Location"] = {
            "schema": {"type": "string", "format": "uri-reference"},
            "description": "Where the job's document is.",
        }
    content = job_document(schema)
    responses.setdefault("202", {"description": _QUEUED, "headers": where, "content": content})
    responses.setdefault("200", {"description": _ENDED, "content": content})


def _add_replayed(operation: dict[str, Any], terms: Terms) -> None:
    kept = {str(each) for each in terms.remember_errors}
    for status, response in operation["responses"].items():
        if status in kept or (status[0] in "23" and status != "202"):
            response["headers"] = headers.replayed() | response.get("headers", {})
