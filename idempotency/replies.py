"""Responses to stored replies, and back."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.template.response import SimpleTemplateResponse

from idempotency.conf import conf
from idempotency.outcomes import Reply, StoredReply

#: Never stored: cookies belong to one client; the rest to one connection or one moment.
NOT_STORED = frozenset(
    {
        "set-cookie",
        "set-cookie2",
        # hop-by-hop (RFC 9110, section 7.6.1)
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # of one response
        "age",
        "content-length",
        "date",
        "server",
        "server-timing",
        "traceparent",
        "tracestate",
        "tracing",
        "via",
        "x-correlation-id",
        "x-request-id",
    }
)


def render(response: HttpResponseBase) -> HttpResponseBase:
    """The response with its content made: inside the transaction, and once."""
    if isinstance(response, SimpleTemplateResponse):  # DRF's Response is one too
        return response.render()
    return response


def capture(response: HttpResponseBase) -> Reply:
    """A rendered response as the ledger keeps it; without its body where that is too large.

    Raises ImproperlyConfigured for a streaming response: it cannot be stored whole.
    """
    if not isinstance(response, HttpResponse):
        raise ImproperlyConfigured(
            "A protected action answered with a streaming response, which cannot be stored and"
            " replayed. Answer with a plain response, a link to the file for instance, or leave"
            " this action unprotected."
        )
    headers = _stored_headers(response.items())
    size = len(response.content) + sum(len(name) + len(value) for name, value in headers)
    if size > conf.IDEMPOTENCY_MAX_BODY:
        return Reply(response.status_code, (), None)
    return Reply(response.status_code, headers, response.content)


def capture_if_possible(response: HttpResponseBase) -> Reply:
    """As `capture`, but a streaming response is taken without its body."""
    if isinstance(response, HttpResponse):
        return capture(response)
    return Reply(response.status_code, (), None)


def replay(stored: StoredReply) -> HttpResponse:
    """The stored reply as a response, marked as a replay. Its body must have been kept."""
    if stored.body is None:
        raise ValueError("the body of this reply was not kept")
    headers = dict(stored.headers)
    headers[conf.IDEMPOTENCY_REPLAYED_HEADER] = "true"
    response = HttpResponse(stored.body, status=stored.status, headers=headers)
    if not any(name.lower() == "content-type" for name, _ in stored.headers):
        del response["Content-Type"]  # Django's default; the first reply had none
    return response


def after_sending(response: HttpResponseBase, call: Callable[[], None]) -> None:
    """Have `call` run when the server closes the response: its client has it by then."""
    closers: Any = vars(response)["_resource_closers"]  # where Django has the request closed
    closers.append(call)


def _stored_headers(items: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    items = list(items)
    named = {
        token.strip().lower()
        for name, value in items
        if name.lower() == "connection"
        for token in value.split(",")
    }
    return tuple((name, value) for name, value in items if name.lower() not in NOT_STORED | named)


def has_failed(response: HttpResponseBase) -> bool:
    """Whether the server says that it could not: forgotten, so that a retry may succeed."""
    return response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
