"""`IdempotencyMixin`: protects `create()`, and whatever else is named, of a DRF view.

Two places, and nothing of `dispatch` copied. After `initial()` has authenticated, permitted and
throttled, the method's handler is replaced on the instance by the protected one. And `as_view()`
decides about transactions before dispatch, because ATOMIC_REQUESTS wraps the view from outside.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from typing import Any, ClassVar

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http.response import HttpResponseBase
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSetMixin

from idempotency import protocol, replies
from idempotency.exceptions import PROBLEM_JSON, IdempotencyError, Unavailable
from idempotency.identity import auth_caller, check_operation
from idempotency.layers import ledger
from idempotency.operation import SAFE_METHODS, header_of, key_of, operation_of
from idempotency.policy import Policy
from idempotency.transactions import own_transaction

Handler = Callable[..., HttpResponseBase]


class IdempotencyMixin:
    """Stands before the DRF base class and protects its unsafe actions.

    Replays come after authentication, permissions and throttles, and only to the same caller.
    Protected actions run in a transaction on `idempotency_policy.using`, key or no key.
    """

    #: Actions of a viewset, or HTTP methods of an APIView in lower case.
    #: `None` means {"create"} on viewsets and {"post"} elsewhere.
    idempotency_actions: ClassVar[AbstractSet[str] | None] = None
    #: What the protected actions promise; an `@action` may bring its own.
    idempotency_policy: Policy = Policy()
    #: The operation's name in the scope; `None` means `app_label.ViewClass.action`. Name it
    #: before you rename or move the class: the name is part of every key's identity.
    idempotency_operation: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if APIView in bases and bases.index(APIView) < bases.index(IdempotencyMixin):
            raise TypeError(
                f"{cls.__name__}: IdempotencyMixin must stand before the DRF base class, as in"
                f" class {cls.__name__}(IdempotencyMixin, ...)."
            )

    @classmethod
    def as_view(cls, *args: Any, **kwargs: Any) -> Callable[..., HttpResponseBase]:
        view = super().as_view(*args, **kwargs)  # type: ignore[misc] # of the DRF base class
        _check_declarations(cls)
        actions = getattr(view, "actions", None)

        def alias_of(method: str) -> str | None:
            action = method if actions is None else actions.get(method)
            if not _protects(cls, method, action):
                return None
            declared = view.initkwargs.get("idempotency_policy", cls.idempotency_policy)
            return ledger.alias(_own_policies(cls).get(action, declared).using)

        return own_transaction(view, alias_of)

    # Hooks

    def get_idempotency_policy(self) -> Policy:
        """The policy of this request. `using` is taken from the declared policy, never from here:
        the transaction is chosen before the view is there."""
        return self._declared_policy()

    def get_idempotency_caller(self, request: Request) -> str:
        """Whose key this is: `user:<pk>`, else an identity from `request.auth`, else `anon`.

        Dangerous to override: two callers with one name are handed each other's replies. Name
        what was authenticated; never take the name from the body, a header or the URL.
        """
        user = request.user
        if user is not None and user.is_authenticated and user.pk is not None:
            return f"user:{user.pk}"
        return "anon" if request.auth is None else auth_caller(request.auth)

    # DRF's life cycle

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)  # type: ignore[misc] # of the DRF base class
        if self._is_protected():
            method = str(request.method).lower()
            setattr(self, method, partial(self._protected, getattr(self, method)))

    def handle_exception(self, exc: Exception) -> Response:
        if exc is self._given_up:
            raise exc  # the project's exception handler has seen it already
        if not self._is_protected():
            return self._respond_to(exc)
        using = self._alias()
        if header_of(self.request._request) is not None and ledger.unreachable(exc, using=using):
            exc = Unavailable(retry_after=protocol.RETRY_AFTER)
        connection = connections[using]
        marked = connection.needs_rollback
        try:
            return self._respond_to(exc)
        finally:
            # Our transaction has ended: DRF's set_rollback() could only reach a TestCase's.
            connection.needs_rollback = marked

    # The protected action

    #: An error that the project's exception handler has given up on.
    _given_up: Exception | None = None

    def _protected(
        self, handler: Handler, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        terms = self.get_idempotency_policy().resolve()

        def finished(response: HttpResponseBase) -> HttpResponseBase:
            return replies.render(self.finalize_response(request, response, *args, **kwargs))

        def execute() -> HttpResponseBase:
            return finished(handler(request, *args, **kwargs))

        def on_error(error: Exception) -> HttpResponseBase:
            try:
                return finished(self.handle_exception(error))
            except Exception as given_up:
                self._given_up = given_up
                raise

        name, using = self._operation_name(), self._alias()
        key = key_of(request._request, name, terms)
        if key is None:
            response = protocol.run_without_key(execute, using=using)
        else:
            operation = operation_of(
                request._request,
                key,
                name=name,
                caller=self.get_idempotency_caller(request),
                body=_body(request),
                terms=terms,
                using=using,
            )
            response = protocol.run(operation, execute, on_error)
        # It is final: dispatch must not finalize it again, nor add headers to a replay.
        setattr(self, "finalize_response", _as_it_is)  # noqa: B010 - on the instance, not the type
        return response

    def _operation_name(self) -> str:
        return check_operation(
            self.idempotency_operation or f"{_default_operation(type(self))}.{self._action()}"
        )

    def _action(self) -> str | None:
        """The viewset's action, or the method of a plain view."""
        if issubclass(type(self), ViewSetMixin):
            action: str | None = self.action
            return action
        return str(self.request.method).lower()

    def _is_protected(self) -> bool:
        return _protects(type(self), str(self.request.method).lower(), self._action())

    def _declared_policy(self) -> Policy:
        return _own_policies(type(self)).get(self._action(), self.idempotency_policy)

    def _alias(self) -> str:
        return ledger.alias(self._declared_policy().using)

    def _respond_to(self, exc: Exception) -> Response:
        response: Response = super().handle_exception(exc)  # type: ignore[misc] # DRF's
        # Where a project's handler made a body of its own, that body stands.
        if isinstance(exc, IdempotencyError) and response.data == {"detail": exc.detail}:
            response.data = exc.problem()
            renderer = getattr(self.request, "accepted_renderer", None)
            if renderer is not None and renderer.media_type == "application/json":
                response.content_type = PROBLEM_JSON
        return response


def _as_it_is(
    request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
) -> HttpResponseBase:
    return response


def _body(request: Request) -> Any:
    try:
        return request.data
    except UnsupportedMediaType:  # no parser of this view reads it, so it counts as it is
        return request._request.body


@lru_cache(maxsize=512)
def _default_operation(view: type) -> str:
    config = apps.get_containing_app_config(view.__module__)
    label = config.label if config is not None else view.__module__.partition(".")[0]
    return f"{label}.{view.__name__}"


def _names(view: type[IdempotencyMixin]) -> AbstractSet[str]:
    if view.idempotency_actions is not None:
        return view.idempotency_actions
    return {"create"} if issubclass(view, ViewSetMixin) else {"post"}


def _protects(view: type[IdempotencyMixin], method: str, action: str | None) -> bool:
    if method in SAFE_METHODS or action is None:
        return False
    return action in _names(view) or action in _own_policies(view)


@lru_cache(maxsize=512)
def _own_policies(view: type[IdempotencyMixin]) -> Mapping[str | None, Policy]:
    """The policies that `@action(idempotency_policy=...)` gives, by action and mapped method."""
    if not issubclass(view, ViewSetMixin):
        return {}
    return {
        name: extra.kwargs["idempotency_policy"]
        for extra in view.get_extra_actions()
        if "idempotency_policy" in extra.kwargs
        for name in extra.mapping.values()
    }


def _check_declarations(view: type[IdempotencyMixin]) -> None:
    """Raises ImproperlyConfigured: a misspelt name would protect nothing, and say nothing."""
    policies = [view.idempotency_policy, *_own_policies(view).values()]
    if not all(isinstance(policy, Policy) for policy in policies):
        raise ImproperlyConfigured(f"{view.__name__}: an idempotency_policy must be a Policy.")
    names = view.idempotency_actions
    if names is None:
        return
    if not isinstance(names, AbstractSet):
        raise ImproperlyConfigured(
            f"{view.__name__}.idempotency_actions must be a set of names, not {names!r}."
        )
    for name in sorted(names):
        if issubclass(view, ViewSetMixin):
            known, kind = callable(getattr(view, name, None)), "an action"
        else:
            known = name in view.http_method_names and name not in SAFE_METHODS
            kind = "an unsafe HTTP method in lower case"
        if not known:
            raise ImproperlyConfigured(
                f"{view.__name__}.idempotency_actions names {name!r}, which is not {kind} of it."
            )
