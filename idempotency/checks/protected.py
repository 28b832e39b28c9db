"""The protected views of the project, found in its URL patterns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.urls import URLResolver, get_resolver

from idempotency.declarations import declaration
from idempotency.policy import Policy


@dataclass(frozen=True)
class ProtectedView:
    """One protected action of a view class, as its URL pattern declares it."""

    view: type
    action: str
    operation: str
    policy: Policy
    #: Permission classes; `None` where only a request would tell.
    permissions: tuple[Any, ...] | None

    @property
    def using(self) -> str | None:
        """The alias that the policy names."""
        return self.policy.using

    @property
    def dotted(self) -> str:
        """Where the class is defined."""
        return f"{self.view.__module__}.{self.view.__qualname__}"


def protected_views() -> list[ProtectedView]:
    """What IdempotencyMixin protects; nothing where the URL patterns cannot be loaded."""
    # Views are imported late: DRF reads the project's settings, and its classes, as it is imported.
    from idempotency.views import IdempotencyMixin  # noqa: PLC0415

    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    try:
        callbacks = list(_callbacks(get_resolver().url_patterns))
    except Exception:  # noqa: BLE001 - the project's modules; Django's own URL checks report it
        return []
    found: list[ProtectedView] = []
    for callback in callbacks:
        view = getattr(callback, "cls", None)
        if isinstance(view, type) and issubclass(view, IdempotencyMixin):
            found += _of_view(callback)
    return found


def _callbacks(patterns: Any) -> Iterator[Any]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _callbacks(pattern.url_patterns)
        else:
            yield pattern.callback


def _of_view(callback: Any) -> Iterator[ProtectedView]:
    view = callback.cls(**callback.initkwargs)
    mapped = getattr(callback, "actions", None)
    if mapped is None:
        mapped = {name: None for name in view.http_method_names if hasattr(view, name)}
    for method, action in mapped.items():
        declared = declaration(view, method, action)
        if declared is not None:
            yield ProtectedView(
                view=callback.cls,
                action=declared.action,
                operation=declared.operation,
                policy=declared.policy,
                permissions=_permissions(callback.cls, callback.initkwargs),
            )


def _permissions(view: Any, arguments: Any) -> tuple[Any, ...] | None:
    if view.get_permissions.__qualname__ != "APIView.get_permissions":
        return None
    return tuple(arguments.get("permission_classes", view.permission_classes))
