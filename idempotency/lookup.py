"""The views behind the optional URLs: what came of a key, and how far a job is.

They tell callers about their own keys and jobs only, by the scope that a request would have had.
A project that names its callers otherwise, in `get_idempotency_caller()`, routes subclasses that
name them in the same way, under the same names:

class OwnKeys(TenantCallers, KeyLookup): ...
class OwnJobs(TenantCallers, JobLookup): ...

lookups = [
    path("keys/<path:key>/", OwnKeys.as_view(), name="key"),
    path("jobs/<uuid:job_id>/", OwnJobs.as_view(), name="job"),
]
urlpatterns = [path("idempotency/", include((lookups, "idempotency")))]
"""

import math
from typing import Any, Final
from uuid import UUID

from django.http.response import HttpResponseBase
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import replies
from idempotency.documents import document, provisional_reply
from idempotency.exceptions import (
    InProgress,
    KeyExpired,
    KeyInvalid,
    OutcomeUnknown,
    ReplyNotKept,
    Unavailable,
)
from idempotency.execution import RETRY_AFTER
from idempotency.identity import ANONYMOUS, check_operation, header_name, identify
from idempotency.keys import SCOPE_HEADER, InvalidKey, format_key
from idempotency.layers import ledger, link, look
from idempotency.layers.look import Outcome, Standing
from idempotency.outcomes import Identity
from idempotency.views import IdempotencyMixin

#: Also where the first request died and left its key to the next: that one makes the reply.
_NO_OUTCOME: Final = (
    "There is no outcome of this key for this caller and operation: the request is under way, has"
    " failed or never came, or was forgotten long ago. A recent one may be sent again, unchanged"
    " and with the same key."
)
_POLL: Final = {"Retry-After": str(math.ceil(RETRY_AFTER))}


# The mixin names the caller and renders refusals; nothing here needs its protection.
class _Lookup(IdempotencyMixin, APIView):
    #: The alias of the records, where policies name one; `None` means the router's.
    using: str | None = None

    def handle_exception(self, exc: Exception) -> Response:
        if link.unreachable(exc, using=ledger.alias(self.using)):
            exc = Unavailable(retry_after=RETRY_AFTER)
        return super().handle_exception(exc)

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        # What a retry would get goes out as it is, without this view's Allow and Vary.
        if isinstance(response, Response):
            response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response

    def _known_caller(self, request: Request) -> str:
        """The caller's name. Raises NotFound for strangers, who could ask for each other's keys."""
        caller = self.get_idempotency_caller(request)
        if caller == ANONYMOUS:
            raise NotFound
        return caller

    def _identity(self, request: Request, caller: str, operation: str, key: str) -> Identity:
        """As a request under this key would have it."""
        narrowing = request.META.get(header_name(SCOPE_HEADER))
        return identify(caller, operation, narrowing, key, ledger.alias(self.using))


class KeyLookup(_Lookup):
    """What came of a request under an idempotency key.

    `operation` names the operation that the key was sent to. `state` is "running", "finished",
    "expired", "abandoned" (the request may be sent again) or "unknown" (ask the operators);
    `status` is the reply's, and with `reply=1` the answer is the reply itself, where it is still
    `replayable`. `job` is the id of the job that the request has started.
    """

    def get(self, request: Request, key: str, **kwargs: Any) -> HttpResponseBase:
        caller = self._known_caller(request)
        identity = self._identity(request, caller, _operation(request), _checked(key))
        with_reply = _wants_reply(request)
        outcome = look.outcome(identity, with_reply=with_reply)
        if outcome is None:
            raise NotFound(_NO_OUTCOME)
        if with_reply:
            return _reply(outcome)
        described = {
            "state": outcome.state.value,
            "status": outcome.status,
            "created_at": outcome.created_at,
            "expires_at": outcome.expires_at,
            "replayable": outcome.replayable,
            "job": None if outcome.job is None else str(outcome.job.id),
        }
        return Response(described, headers=_POLL if outcome.state == Standing.RUNNING else None)


class JobLookup(_Lookup):
    """How far a job is, and what came of it."""

    def get(self, request: Request, job_id: UUID, **kwargs: Any) -> Response:
        caller = self._known_caller(request)
        found = look.job(job_id, using=ledger.alias(self.using))
        if found is None:
            raise NotFound
        if found.owner != self._identity(request, caller, found.operation, found.owner.key):
            raise NotFound
        if found.view is None:
            raise ReplyNotKept
        ended = found.view.finished_at is not None
        return Response(document(found.view), headers=None if ended else _POLL)


def _reply(outcome: Outcome) -> HttpResponseBase:
    """What a retry would get, where it would not run."""
    match outcome.state:
        case Standing.FINISHED:
            if outcome.reply is None:
                raise ReplyNotKept
            return replies.replay(outcome.reply)
        case Standing.EXPIRED:
            raise KeyExpired
        case Standing.RUNNING:
            if outcome.job is None:
                raise InProgress(retry_after=RETRY_AFTER)
            return provisional_reply(outcome.job, RETRY_AFTER)
        case Standing.UNKNOWN:
            raise OutcomeUnknown
        case Standing.ABANDONED:
            raise NotFound(_NO_OUTCOME)


def _operation(request: Request) -> str:
    given = request.query_params.getlist("operation")
    try:
        return check_operation(given[0] if len(given) == 1 else "")
    except ValueError as error:
        advice = "Name the operation that the key was sent to, once: ?operation=shop.Orders.create."
        raise ValidationError({"operation": [f"{advice} {error}"]}) from None


def _wants_reply(request: Request) -> bool:
    given = request.query_params.getlist("reply")
    if given not in ([], ["1"]):
        raise ValidationError({"reply": ["Ask for the reply with ?reply=1, or leave this out."]})
    return bool(given)


def _checked(key: str) -> str:
    """The decoded key. Raises KeyInvalid for one that no header can spell."""
    try:
        format_key(key)
    except InvalidKey as error:
        raise KeyInvalid(str(error)) from None
    return key
