"""ATOMIC_REQUESTS, decided before the view runs: our transaction, or exactly Django's."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

View = Callable[..., HttpResponseBase]


class _DecidedHere(set[str]):
    """Contains every alias when Django asks; holds those that the project has exempted."""

    def __contains__(self, alias: object) -> bool:
        return True


def own_transaction(view: View, alias_of: Callable[[str], str | None]) -> View:
    """Exempt `view` from Django's blocks and open them here, where the method is known.

    `alias_of` gives the alias on which a method's own protocol opens the transaction, or `None`
    for an unprotected method. Every other alias with ATOMIC_REQUESTS gets Django's block.
    """
    exempt = _DecidedHere(getattr(view, "_non_atomic_requests", ()))

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        skipped = {*exempt, alias_of(str(request.method).lower())}
        inner = view
        for alias, configured in connections.settings.items():
            if configured["ATOMIC_REQUESTS"] and alias not in skipped:
                inner = transaction.atomic(using=alias)(inner)
        return inner(request, *args, **kwargs)

    wrapper._non_atomic_requests = exempt  # type: ignore[attr-defined] # where Django looks
    return wrapper
