"""JSON that is kept: arguments and results of jobs and steps, and the document of a job."""

import json
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpResponse
from django.urls import NoReverseMatch, reverse

from idempotency.conf import conf
from idempotency.outcomes import JobView, Reply

JSON_TYPE: Final = "application/json"


def encode(value: Any, what: str) -> str:
    """A value as JSON that decodes to an equal one, tuples as lists.

    Raises TypeError for what JSON has no form for, NaN and keys that are no strings included, and
    ValueError for more than IDEMPOTENCY_MAX_BODY bytes; `what` names the value in the message.
    """
    try:
        _check_keys(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} must be JSON: {error}") from None
    if size > conf.IDEMPOTENCY_MAX_BODY:
        raise ValueError(
            f"{what} has {size} bytes as JSON, more than IDEMPOTENCY_MAX_BODY"
            f" ({conf.IDEMPOTENCY_MAX_BODY}): keep it elsewhere, and hand on where."
        )
    return text


def decode(text: str) -> Any:
    """The value that `encode` was given."""
    return json.loads(text)


def document(job: JobView) -> dict[str, Any]:
    """What a client gets to see of a job."""
    failed = bool(job.error_code)
    return {
        "id": str(job.id),
        "status": job.status,
        "progress": None if job.total is None else {"done": job.done, "total": job.total},
        "result": None if job.result is None else decode(job.result),
        "error": {"code": job.error_code, "message": job.error_message} if failed else None,
        "attempts": job.attempts,
        "created_at": _moment(job.created_at),
        "started_at": _moment(job.started_at),
        "finished_at": _moment(job.finished_at),
    }


def final_reply(job: JobView, status: int) -> Reply:
    """The reply that every retry gets once a job has ended."""
    body = json.dumps(document(job), ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, (("Content-Type", JSON_TYPE),), body)


def provisional_reply(job: JobView, retry_after: float) -> HttpResponse:
    """202 for a job that is queued or running; `retry_after` in seconds."""
    response = HttpResponse(
        final_reply(job, HTTPStatus.ACCEPTED).body,
        status=HTTPStatus.ACCEPTED,
        content_type=JSON_TYPE,
        headers={"Retry-After": str(max(1, round(retry_after)))},
    )
    with suppress(NoReverseMatch):  # a project that serves no job documents: the key finds it
        response["Location"] = reverse("idempotency:job", args=[job.id])
    return response


def _check_keys(value: Any) -> None:
    """json.dumps would turn other keys into strings, and say nothing."""
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the key {name!r} is no string")
            _check_keys(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_keys(each)


def _moment(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat().replace("+00:00", "Z")
