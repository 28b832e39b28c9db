"""ATOMIC_REQUESTS, decided before the view runs: our transaction, or exactly Django's."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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


#: Where a request keeps the other aliases that asked for a block.
_ASKED = "_idempotency_other_aliases"


def other_blocks(request: HttpRequest) -> AbstractContextManager[object]:
    """The blocks of the other aliases that ATOMIC_REQUESTS asks for, for a protected handler."""
    return _blocks(getattr(request, _ASKED, ()))


@contextmanager
def _blocks(aliases: Iterable[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for alias in aliases:
            stack.enter_context(transaction.atomic(using=alias))
        yield


def own_transaction(view: View, alias_of: Callable[[str], str | None]) -> View:
    """Exempt `view` from Django's blocks and open them here, where the method is known.

    `alias_of` gives the alias on which a method's own protocol opens the transaction, or `None`
    for an unprotected method, which gets exactly Django's blocks. A protected one opens those of
    the other aliases with `other_blocks`, around its handler only: they commit before its own
    transaction, so that their failure frees the key, and no duplicate waits inside them.
    """
    exempt = _DecidedHere(getattr(view, "_non_atomic_requests", ()))

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        own = alias_of(str(request.method).lower())
        skipped = {*exempt, own}
        asked = [
            alias
            for alias, configured in connections.settings.items()
            if configured["ATOMIC_REQUESTS"] and alias not in skipped
        ]
        if own is None:
            with _blocks(asked):
                return view(request, *args, **kwargs)
        setattr(request, _ASKED, asked)
        return view(request, *args, **kwargs)

    wrapper._non_atomic_requests = exempt  # type: ignore[attr-defined] # where Django looks
    return wrapper
