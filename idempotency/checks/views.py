"""Protected views: who may call them, and whether their names are their own."""

from collections import defaultdict
from typing import Any

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name

from idempotency.checks.protected import ProtectedView, protected_views
from idempotency.conf import conf
from idempotency.policy import guessable


def check_views(**kwargs: Any) -> list[CheckMessage]:
    """Operations that share a name, and anonymous callers whose keys can be guessed."""
    views = protected_views()
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for view in views:
        classes[view.declared.operation].add(view.dotted)
    messages: list[CheckMessage] = [
        Error(
            f"The operation {operation} is the name of {' and '.join(sorted(sharing))}: equal keys"
            " of one caller would meet there, to be refused or answered by the other.",
            hint="Give each class an idempotency_operation of its own.",
            id="idempotency.E023",
        )
        for operation, sharing in sorted(classes.items())
        if len(sharing) > 1
    ]
    open_views = {view.dotted: view for view in views if _is_open(view)}
    messages += [
        Warning(
            f"{name} is open to anonymous callers, who share one key space, and its key format"
            f" {_key_format(view)!r} can be guessed: a stranger's key would fetch the reply.",
            hint='Ask for keys that cannot be guessed, Policy(key_format="uuid"), or for'
            " authentication, or name who was authenticated in get_idempotency_caller().",
            id="idempotency.W013",
        )
        for name, view in sorted(open_views.items())
    ]
    return messages


def _is_open(protected: ProtectedView) -> bool:
    """Whether strangers get in, all as one caller, with keys that can be guessed."""
    view = protected.view
    if not hasattr(view, "get_permissions"):
        return False  # a plain view: decorators decide who gets in
    if view.get_permissions.__qualname__ != "APIView.get_permissions":
        return False  # only a request would tell
    if protected.names_caller:
        return False
    return not any(map(_asks_for_user, view.permission_classes)) and guessable(
        _key_format(protected)
    )


#: By name: rest_framework belongs to the views.
_USER_PERMISSIONS = frozenset(
    {"IsAuthenticated", "IsAdminUser", "IsAuthenticatedOrReadOnly", "DjangoModelPermissions"}
)


def _asks_for_user(permission: Any) -> bool:
    """Whether a permission lets nobody in without a user; any other, such as one that checks an
    API key by itself, leaves its callers nameless. Of composed ones only a request would tell."""
    if not isinstance(permission, type):
        return True
    return any(
        base.__module__ == "rest_framework.permissions" and base.__name__ in _USER_PERMISSIONS
        for base in permission.__mro__
    )


def _key_format(view: ProtectedView) -> str:
    return view.declared.policy.key_format or conf.IDEMPOTENCY_KEY_FORMAT
