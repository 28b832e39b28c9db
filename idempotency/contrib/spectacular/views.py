"""Every view's schema, passed on as the view has it, with what its protection adds.

drf-spectacular asks one extension for a view, and takes the class that it gives in the view's
place. Ours comes first, asks the others itself, and gives a subclass whose `schema` lets the
view's own schema do its work, by whichever class or decorator, before it adds to the result.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import new_class
from typing import Any

from drf_spectacular.drainage import warn
from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import get_doc

from idempotency.contrib.spectacular.operations import protect
from idempotency.declarations import Declaration, declaration, declared_on
from idempotency.operation import SAFE_METHODS
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin

#: Adds to an operation of a view; the schema is the one that has made it.
Telling = Callable[[dict[str, Any], Any, AutoSchema], None]


class ProtectedViews(OpenApiViewExtension):  # type: ignore[no-untyped-call] # theirs
    """Views with the mixin, and those of DRF inside `idempotent_view`."""

    target_class = "rest_framework.views.APIView"
    match_subclasses = True
    priority = 100  # before a project's own, which are asked from here

    def view_replacement(self) -> Any:
        """The view as others have it, told of its protection if it has one."""
        view = self._as_others_have_it()
        plain = declared_on(self.target_callback)
        if plain is None and not issubclass(view, IdempotencyMixin):
            return view
        # Where two threads make a schema at once, either may put our class back as the original.
        own = inspect.getattr_static(view, "schema")
        if isinstance(own, _Schema) and isinstance(own.telling, _Protection):
            return view
        return told(view, _Protection(plain))

    def _as_others_have_it(self) -> Any:
        others = [each for each in OpenApiViewExtension._registry if each is not type(self)]
        for each in sorted(others, key=lambda other: other.priority, reverse=True):
            if each._matches(self.target):
                return each(self.target_callback).view_replacement()
        return self.target


@lru_cache(maxsize=512)
def told(view: Any, telling: Telling) -> Any:
    """A subclass of a view's class, with the same name, whose operations `telling` adds to."""
    schema = _Schema(inspect.getattr_static(view, "schema"), telling)
    names = {"__module__": view.__module__, "__qualname__": view.__qualname__, "schema": schema}
    return new_class(view.__name__, (view,), exec_body=lambda space: space.update(names))


@dataclass(frozen=True)
class _Protection:
    """Tells what a declaration adds."""

    #: Of a plain view; the others are asked for theirs.
    plain: Declaration | None

    def __call__(self, operation: dict[str, Any], view: Any, schema: AutoSchema) -> None:
        _leave_out_our_docstring(operation, view)
        policy = self._policy(view, schema.method.lower())
        if policy is not None:
            protect(operation, policy.resolve(), schema)

    def _policy(self, view: Any, method: str) -> Policy | None:
        if self.plain is not None:
            return None if method in SAFE_METHODS else self.plain.policy
        declared = declaration(view, method, getattr(view, "action", None))
        if declared is None:
            return None
        try:
            chosen: Policy = view.get_idempotency_policy()
        except Exception as error:  # noqa: BLE001 - the project's; no request is here that it knows
            warn(f"get_idempotency_policy() has failed: {error}. The declared policy is described.")
            return declared.policy
        return chosen


class _Schema:
    """The `schema` of a view's class: gives what the class below would give, as a _ToldSchema."""

    def __init__(self, own: Any, telling: Telling) -> None:
        self._own = own
        self.telling = telling

    def __get__(self, view: Any, owner: type) -> Any:
        if view is None and isinstance(self._own, AutoSchema):
            return self._own  # asked of the class, it would forget the view that it works for
        schema = self._own.__get__(view, owner)
        if view is None or not isinstance(schema, AutoSchema):  # drf-spectacular complains of it
            return schema
        return _ToldSchema(schema, view, self.telling)

    def __set__(self, view: Any, schema: Any) -> None:
        self._own.__set__(view, schema)


class _ToldSchema(AutoSchema):
    """Another schema's operations, with something added."""

    def __init__(self, own: AutoSchema, view: Any, telling: Telling) -> None:
        super().__init__()
        self._own: Any = own  # or a weak reference to it
        self._viewed = view  # its own idea of that is another, where views share it
        self._telling = telling

    @property
    def innermost(self) -> Any:
        """The view's own."""
        return self._own.innermost if isinstance(self._own, _ToldSchema) else self._own

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """What the other makes, and more."""
        operation: dict[str, Any] | None = self._own.get_operation(*args, **kwargs)
        if operation:
            self._telling(operation, self._viewed, self.innermost)
        return operation


def _leave_out_our_docstring(operation: dict[str, Any], view: Any) -> None:
    """A view without one is described by its nearest base that has one, not by the mixin."""
    if operation.get("description") != get_doc(IdempotencyMixin):
        return
    bases = type(view).__mro__
    below = get_doc(bases[bases.index(IdempotencyMixin) + 1])
    if below:
        operation["description"] = below
    else:
        del operation["description"]
