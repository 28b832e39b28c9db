"""What a view class declares: which actions it protects, under which name, with which policy."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from idempotency.identity import check_operation
from idempotency.operation import SAFE_METHODS
from idempotency.policy import Policy


@dataclass(frozen=True, slots=True)
class Declaration:
    """One protected action."""

    action: str
    operation: str
    policy: Policy


def declaration(view: Any, method: str, action: str | None) -> Declaration | None:
    """What `view`, an instance, declares for a method in lower case; `None`: not protected.

    `action` is the viewset's; plain views have none and are known by their methods.
    """
    kind: Any = type(view)
    name = action if is_viewset(kind) else method
    if name is None or method in SAFE_METHODS:
        return None
    own = own_policies(kind)
    if name not in own and name not in _names(kind):
        return None
    return Declaration(
        action=name,
        operation=check_operation(view.idempotency_operation or _default_name(kind, name)),
        policy=own.get(name, view.idempotency_policy),
    )


def declare(view: Any, operation: str, policy: Policy) -> None:
    """Leave a declaration on a plain view, where the checks find it."""
    view.idempotency_declaration = Declaration(view.__name__, operation, policy)


def declared_on(view: Any) -> Declaration | None:
    """What `declare` has left on a plain view."""
    found: Declaration | None = getattr(view, "idempotency_declaration", None)
    return found


def is_viewset(view: type) -> bool:
    """Whether actions, rather than methods, name what the class does."""
    return hasattr(view, "get_extra_actions")


@lru_cache(maxsize=512)
def own_policies(view: Any) -> Mapping[str, Policy]:
    """The policies that `@action(idempotency_policy=...)` gives, by action and mapped method."""
    if not is_viewset(view):
        return {}
    return {
        name: extra.kwargs["idempotency_policy"]
        for extra in view.get_extra_actions()
        if "idempotency_policy" in extra.kwargs
        for name in extra.mapping.values()
    }


def check_declarations(view: Any) -> None:
    """Checks what a view, an instance, declares, when its URL is made.

    Raises ImproperlyConfigured: a misspelt name would protect nothing, and say nothing.
    """
    kind: Any = type(view)
    policies = [view.idempotency_policy, *own_policies(kind).values()]
    if not all(isinstance(policy, Policy) for policy in policies):
        raise ImproperlyConfigured(f"{kind.__name__}: an idempotency_policy must be a Policy.")
    if view.idempotency_operation is not None:
        try:
            check_operation(view.idempotency_operation)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{kind.__name__}: {error}") from None
    names = view.idempotency_actions
    if names is not None and not isinstance(names, AbstractSet):
        raise ImproperlyConfigured(
            f"{kind.__name__}.idempotency_actions must be a set of names, not {names!r}."
        )
    for name in sorted(names or ()):
        if is_viewset(kind):
            known, wanted = callable(getattr(kind, name, None)), "an action"
        else:
            known = name in kind.http_method_names and name not in SAFE_METHODS
            wanted = "an unsafe HTTP method in lower case"
        if not known:
            raise ImproperlyConfigured(
                f"{kind.__name__}.idempotency_actions names {name!r}, which is not {wanted} of it."
            )


def _names(view: Any) -> AbstractSet[str]:
    names: AbstractSet[str] | None = view.idempotency_actions
    if names is not None:
        return names
    return {"create"} if is_viewset(view) else {"post"}


@lru_cache(maxsize=512)
def _default_name(view: Any, action: str) -> str:
    config = apps.get_containing_app_config(view.__module__)
    label = config.label if config is not None else view.__module__.partition(".")[0]
    return f"{label}.{view.__name__}.{action}"
