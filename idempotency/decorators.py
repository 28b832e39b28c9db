"""`idempotent_view`: the protocol for plain Django views; `once`: for functions and consumers."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.datastructures import MultiValueDict

from idempotency import protocol, replies
from idempotency.consumers import once
from idempotency.declarations import declare
from idempotency.exceptions import PROBLEM_JSON, IdempotencyError, Unavailable
from idempotency.execution import RETRY_AFTER, raise_again
from idempotency.identity import caller_of, check_operation
from idempotency.layers import ledger, link
from idempotency.observing import observe_keyless
from idempotency.operation import SAFE_METHODS, Operation, key_of, operation_of
from idempotency.policy import Policy
from idempotency.transactions import View, other_blocks, own_transaction

__all__ = ["idempotent_view", "once"]


def idempotent_view(
    *,
    operation: str,
    policy: Policy | None = None,
    caller: Callable[[HttpRequest], str] | None = None,
) -> Callable[[View], View]:
    """Protect the unsafe methods of a plain Django view.

    `operation` names it in every key's scope. `caller` names who asks, by default `user:<pk>` or
    `anon`; it is dangerous to name two callers alike, or to believe a name from the request.
    Decorators that authenticate go above this one: a replay must come after them. Errors that
    the view raises are Django's to render, so none of them is remembered.
    Raises ValueError for a bad name, TypeError for what is no Policy and for an async view.
    """
    check_operation(operation)
    promised = Policy() if policy is None else policy
    if not isinstance(promised, Policy):
        raise TypeError(f"idempotent_view takes a Policy, not {policy!r}.")
    name_caller = caller or _user

    def decorate(view: View) -> View:
        if iscoroutinefunction(view):
            raise TypeError(f"idempotent_view protects synchronous views, and {view!r} is async.")

        def respond(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            def execute() -> HttpResponseBase:
                with other_blocks(request):
                    return replies.render(view(request, *args, **kwargs))

            terms, using = promised.resolve(), ledger.alias(promised.using)
            key = key_of(request, operation, terms)

            def ask() -> Operation:
                named = _named(request, name_caller, using)
                return _asked(request, key, name=operation, caller=named, terms=terms, using=using)

            if key is not None or terms.execution != "atomic":
                return protocol.run(ask(), execute, raise_again, replies.after_sending)
            if terms.mode == "observe":
                return observe_keyless(operation, execute, ask, using=using)
            return protocol.run_without_key(execute, using=using)

        @wraps(view)
        def protected(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if str(request.method).lower() in SAFE_METHODS:
                return view(request, *args, **kwargs)
            try:
                return respond(request, *args, **kwargs)
            except IdempotencyError as refusal:
                return _problem(refusal)

        served = own_transaction(
            protected,
            lambda method: None if method in SAFE_METHODS else ledger.alias(promised.using),
        )
        declare(served, operation, promised)
        return served

    return decorate


def _named(request: HttpRequest, name_caller: Callable[[HttpRequest], str], using: str) -> str:
    try:
        return name_caller(request)
    except (DatabaseError, InterfaceError) as error:
        if link.unreachable(error, using=using):
            raise Unavailable(retry_after=RETRY_AFTER) from error
        raise


def _user(request: HttpRequest) -> str:
    return caller_of(getattr(request, "user", None), None)


def _asked(request: HttpRequest, key: str | None, **said: Any) -> Operation:
    try:
        return operation_of(request, key, body=_body(request), **said)
    except RecursionError:  # nested so deeply that it counts by its bytes
        return operation_of(request, key, body=request.body, **said)


def _body(request: HttpRequest) -> Any:
    """Forms by field and file, JSON by value, anything else by its bytes."""
    if request.content_type in ("multipart/form-data", "application/x-www-form-urlencoded"):
        form: MultiValueDict[str, Any] = MultiValueDict(request.POST.lists())
        form.update(request.FILES)
        return form
    if request.content_type == "application/json":
        try:
            return json.loads(request.body)
        except ValueError:
            return request.body
    return request.body


def _problem(refusal: IdempotencyError) -> JsonResponse:
    response = JsonResponse(
        refusal.problem(), status=refusal.status_code, content_type=PROBLEM_JSON
    )
    wait = getattr(refusal, "wait", None)
    if wait is not None:
        response["Retry-After"] = str(wait)
    return response
