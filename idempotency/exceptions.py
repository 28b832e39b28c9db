"""One class a refusal, all under `IdempotencyError`; DRF turns them into responses."""

import json
import math
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework.exceptions import APIException

#: The media type of problem details (RFC 9457).
PROBLEM_JSON = "application/problem+json"


class IdempotencyError(APIException):
    """A request under an idempotency key was refused; `code` says why, `detail` what to do."""

    status_code = 409
    default_code = "idempotency_error"
    title = "The request was refused by the idempotency layer"

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(detail or self.default_detail, self.default_code)
        #: Seconds; DRF's exception handler sends `wait` as Retry-After.
        if retry_after is not None:
            self.wait = max(1, math.ceil(retry_after))

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 problem details, with DRF's `detail` and `code` in them."""
        return {
            "type": f"urn:problem:{self.default_code}",
            "title": self.title,
            "status": self.status_code,
            "detail": str(self.detail),
            "code": self.default_code,
        }


class KeyRequired(IdempotencyError):
    """The operation asks for a key and the request has none."""

    status_code = 400
    default_code = "idempotency_key_required"
    title = "An idempotency key is required"
    default_detail = (
        "This operation needs an idempotency key: send one that is unique to this operation,"
        " a UUID for instance, and the same one with every retry."
    )


class KeyInvalid(IdempotencyError):
    """The key is malformed, or not of the format that the operation asks for."""

    status_code = 400
    default_code = "idempotency_key_invalid"
    title = "The idempotency key is invalid"
    default_detail = "The idempotency key is invalid."


class KeyReused(IdempotencyError):
    """The key is known with another payload, path, method or query."""

    default_code = "idempotency_key_reused"
    title = "The idempotency key was used for another request"
    default_detail = (
        "This idempotency key was used for a different request."
        " Use a new key for a new request, or send the first request again unchanged."
    )

    def __init__(
        self, *, status: int = 409, mismatched_fields: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.status_code = status
        self.mismatched_fields = mismatched_fields

    def problem(self) -> dict[str, Any]:
        known = (
            {}
            if self.mismatched_fields is None
            else {"mismatched_fields": list(self.mismatched_fields)}
        )
        return super().problem() | known


class InProgress(IdempotencyError):
    """The first request under this key is still running."""

    default_code = "idempotency_in_progress"
    title = "A request with this idempotency key is in progress"
    default_detail = (
        "The first request with this idempotency key is still running."
        " Send the same request again after the time in Retry-After."
    )


class KeyExpired(IdempotencyError):
    """The reply is no longer kept, and the key must not look new."""

    default_code = "idempotency_key_expired"
    title = "The idempotency key has expired"
    default_detail = (
        "This idempotency key was used before and its reply is no longer kept."
        " Look up what the first request did; use a new key only for a new request."
    )


class ReplyNotKept(IdempotencyError):
    """The request was carried out; its reply was too large to keep, or no key decrypts it."""

    default_code = "idempotency_reply_not_kept"
    title = "The reply was not kept"
    default_detail = (
        "The request with this idempotency key was carried out, but its reply is not there to be"
        " sent again. Look up its result; do not send it again under a new key."
    )


class Unavailable(IdempotencyError):
    """The ledger is out of reach, or the outcome of a commit is unknown."""

    status_code = 503
    default_code = "idempotency_unavailable"
    title = "The idempotency ledger is unavailable"
    default_detail = (
        "The request could not be protected against duplicates, or its outcome is not known."
        " Send the same request again, with the same key, after the time in Retry-After."
    )


class OutcomeUnknown(IdempotencyError):
    """The first request died or failed half-way, and its policy leaves the key to an operator."""

    default_code = "idempotency_outcome_unknown"
    title = "The outcome of the first request is unknown"
    default_detail = (
        "The first request with this idempotency key ended without an outcome, and what it did is"
        " not known. Do not send it again, under this key or another: ask the operators of this"
        " service to look it up and settle it."
    )


class LeaseLost(Exception):
    """The claim is no longer ours: the fencing token has moved on, nothing may be written."""


class StepChanged(Exception):
    """A later attempt asks for other steps, or in another order, than the one that went before."""


class StepMisplaced(Exception):
    """A step where there can be none, or a write outside the steps of an execution with steps."""


class JobFailed(Exception):
    """Raised by a job's task: it fails with this message, which the client gets to read.

    `code` is for programs: 1 to 64 characters. Any other exception fails the job too, with a
    neutral message.
    """

    def __init__(self, message: str, *, code: str = "job_failed") -> None:
        super().__init__(message)
        if not 1 <= len(code) <= 64:
            raise ValueError("The code of a JobFailed has 1 to 64 characters.")
        self.message = message
        self.code = code


def for_client(error: BaseException) -> tuple[str, str] | None:
    """Code and message of an error that is meant for the client; `None`: it is not."""
    if isinstance(error, JobFailed):
        return error.code, error.message
    if isinstance(error, APIException):
        codes = error.get_codes()
        plain = isinstance(error.detail, str)
        message = str(error.detail) if plain else json.dumps(error.detail, default=str)
        return codes[:64] if isinstance(codes, str) else "job_invalid", message
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether an error says "no" on purpose, so that nothing is left unknown: DRF's exceptions, and
    the two of Django's that DRF turns into its own. Unavailable says the opposite."""
    if isinstance(error, Unavailable):
        return False
    return isinstance(error, APIException | Http404 | PermissionDenied | JobFailed)
