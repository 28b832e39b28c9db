"""Protected views: who may call them, and whether their names are their own."""

from collections import defaultdict
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name

from idempotency.checks.protected import ProtectedView, protected_views
from idempotency.conf import conf
from idempotency.identity import check_operation
from idempotency.policy import guessable


def check_views(**kwargs: Any) -> list[CheckMessage]:
    """Operations that share a name, and anonymous callers whose keys can be guessed."""
    views = protected_views()
    messages = _named(views)
    open_views = {view.dotted: view for view in views if _is_open(view)}
    messages += [
        Warning(
            f"{name} is open to anonymous callers, who share one key space, and its key format"
            f" {_key_format(view)!r} can be guessed: a stranger's key would fetch the reply.",
            hint='Ask for unguessable keys, Policy(key_format="uuid"), for authentication, or'
            " override get_idempotency_caller() so that it names what was authenticated.",
            id="idempotency.W013",
        )
        for name, view in sorted(open_views.items())
    ]
    return messages


def _named(views: list[ProtectedView]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for view in views:
        classes[str(view.operation)].add(view.dotted)
    for operation, sharing in sorted(classes.items()):
        try:
            check_operation(operation)
        except ValueError as error:
            messages.append(
                Error(
                    f"{', '.join(sorted(sharing))}: {error}",
                    hint="Correct idempotency_operation.",
                    id="idempotency.E023",
                )
            )
        if len(sharing) > 1:
            messages.append(
                Error(
                    f"The operation {operation} is the name of {' and '.join(sorted(sharing))}:"
                    " one caller's equal keys would meet, and be refused or replayed.",
                    hint="Give each class an idempotency_operation of its own.",
                    id="idempotency.E024",
                )
            )
    return messages


def _is_open(view: ProtectedView) -> bool:
    """Whether strangers get in, as one caller, with keys that can be guessed."""
    if view.permissions is None or not all(map(_allows_any, view.permissions)):
        return False
    named_by_us = view.view.get_idempotency_caller.__module__ == "idempotency.views"  # type: ignore[attr-defined] # of the mixin
    return named_by_us and guessable(_key_format(view))


def _allows_any(permission: Any) -> bool:
    return (
        getattr(permission, "__module__", "") == "rest_framework.permissions"
        and getattr(permission, "__qualname__", "") == "AllowAny"
    )


def _key_format(view: ProtectedView) -> str:
    return view.policy.key_format or conf.IDEMPOTENCY_KEY_FORMAT
