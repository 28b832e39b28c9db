"""Calls to roster and billing: their refusals become ours, their absence a 503."""

import json
from typing import Any

import requests
from django.conf import settings
from rest_framework.exceptions import APIException

from enrollment_demo.enrollment.models import Course
from idempotency.client import IdempotentSession
from idempotency.keys import current_key

#: Statuses by which a service refuses this request, today and tomorrow: the caller's to mend.
REFUSALS = frozenset({400, 409, 422})


class ServiceUnavailable(APIException):
    """A service did not answer. Nothing was enrolled; a retry under the same key goes on."""

    status_code = 503
    default_code = "service_unavailable"
    wait = 1  # DRF sends it as Retry-After

    def __init__(self, child: str) -> None:
        super().__init__(f"The {child} service is out of reach. Try again with the same key.")


class ServiceRefused(APIException):
    """A service said no; its status, code and words are the answer."""

    def __init__(self, status: int, detail: Any, code: str) -> None:
        self.status_code = status
        self.code = code
        super().__init__(detail, code)

    @property
    def words(self) -> str:
        """Its detail, in one piece."""
        return self.detail if isinstance(self.detail, str) else json.dumps(self.detail)


def take_place(student: str, course: Course) -> dict[str, int]:
    """A seat and an invoice, as an enrollment names them. Roster first, because it may refuse.

    A retry under the same key finds what it got. Raises ServiceRefused and ServiceUnavailable.
    """
    seat = {"student": student, "course": course.code}
    invoice = seat | {"amount": str(course.price)}
    return {
        "roster_entry": ask("roster", f"{settings.ROSTER_URL}/api/roster-entries/", seat),
        "invoice": ask("billing", f"{settings.BILLING_URL}/api/invoices/", invoice),
    }


def ask(child: str, url: str, payload: dict[str, str]) -> int:
    """Posts to the service `child` under `{key}-{child}` and returns the id of what it made."""
    with _session(child) as session:
        session.headers["Authorization"] = f"Token {settings.SERVICE_TOKEN}"
        try:
            reply = session.post(url, json=payload)
            document = reply.json()
        except requests.RequestException as error:
            raise ServiceUnavailable(child) from error
    if reply.status_code == 201:
        return _made(child, document, payload)
    if reply.status_code in REFUSALS and "Retry-After" not in reply.headers:
        code = document.get("code", "refused")
        raise ServiceRefused(reply.status_code, document.get("detail", document), code)
    raise ServiceUnavailable(child)


def _session(child: str) -> IdempotentSession:
    try:
        current_key()
    except LookupError:  # our caller sent no key: the call gets one of its own, for its own retries
        name = None
    else:
        name = child
    # Atomic enrollments keep their transaction open meanwhile: better a 503 soon than a
    # connection held for long. And a job is not lost, only handed back.
    return IdempotentSession(child=name, attempts=3, deadline=6, timeout=(1, 5))


def _made(child: str, document: dict[str, Any], payload: dict[str, str]) -> int:
    # A lenient service replays what the key made, whatever is asked now. When an earlier try
    # got that far with another student, the seat in the reply is not the one we asked for.
    if any(document[name] != value for name, value in payload.items()):
        raise ServiceRefused(
            409, f"This key was used at {child} for another request.", "idempotency_key_reused"
        )
    return int(document["id"])
