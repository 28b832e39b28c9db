"""The protected views of the project, found in its URL patterns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.urls import URLResolver, get_resolver

from idempotency.declarations import Declaration, declaration, declared_on


@dataclass(frozen=True)
class ProtectedView:
    """One protected action of a view class, or a plain view, as a URL pattern serves it."""

    #: An instance that has met no request, or a plain view.
    view: Any
    declared: Declaration

    @property
    def dotted(self) -> str:
        """Where the class or the plain view is defined."""
        kind = self.view if declared_on(self.view) is not None else type(self.view)
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def names_caller(self) -> bool:
        """Whether the project names its callers itself; of plain views it is taken for granted."""
        hook = getattr(self.view, "get_idempotency_caller", None)
        return getattr(hook, "__qualname__", "") != "IdempotencyMixin.get_idempotency_caller"


def protected_views() -> list[ProtectedView]:
    """What IdempotencyMixin protects; nothing where the URL patterns cannot be loaded."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    try:
        callbacks = list(_callbacks(get_resolver().url_patterns))
    except Exception:  # noqa: BLE001 - the project's modules; Django's own URL checks report it
        return []
    return [found for callback in callbacks for found in _of(callback)]


def _callbacks(patterns: Any) -> Iterator[Any]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _callbacks(pattern.url_patterns)
        else:
            yield pattern.callback


def _of(callback: Any) -> Iterator[ProtectedView]:
    # Late, because DRF reads the project's settings and classes as it is imported.
    from idempotency.views import IdempotencyMixin  # noqa: PLC0415

    plain = declared_on(callback)
    if plain is not None:
        yield ProtectedView(callback, plain)
        return
    kind = getattr(callback, "cls", None)
    if not (isinstance(kind, type) and issubclass(kind, IdempotencyMixin)):
        return
    view: Any = kind(**getattr(callback, "initkwargs", {}))
    actions = getattr(callback, "actions", None) or {
        method: None for method in view.http_method_names if hasattr(view, method)
    }
    for method, action in actions.items():
        declared = declaration(view, method, action)
        if declared is not None:
            yield ProtectedView(view, declared)
