"""`IdempotencyMixin`: protects `create()`, and whatever else is named, of a DRF view.

Two places, and nothing of `dispatch` copied. After `initial()` has authenticated, permitted and
throttled, the method's handler is replaced on the instance by the protected one. And `as_view()`
decides about transactions before dispatch, because ATOMIC_REQUESTS wraps the view from outside.
"""

import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from django.db import connections
from django.http.response import HttpResponseBase
from django.utils.functional import cached_property
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import protocol, replies
from idempotency.declarations import Declaration, check_declarations, declaration
from idempotency.exceptions import PROBLEM_JSON, IdempotencyError, Unavailable
from idempotency.execution import RETRY_AFTER
from idempotency.identity import caller_of
from idempotency.layers import ledger, link
from idempotency.observing import observe_keyless
from idempotency.operation import header_of, key_of, operation_of
from idempotency.policy import Policy
from idempotency.transactions import other_blocks, own_transaction

Handler = Callable[..., HttpResponseBase]

#: Bytes of a JSON body that is parsed a second time rather than by DRF at once.
SMALL_BODY = 64 * 1024

# To a type checker the mixin is a view, so that `self.request` and `super()` are known to it.
if TYPE_CHECKING:
    _View = APIView
else:
    _View = object


class IdempotencyMixin(_View):
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
    #: before you rename or move the class: the name is part of every key's identity. Actions that
    #: share a name share their keys, so name each in its `@action` where there are several.
    idempotency_operation: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if APIView in bases and bases.index(APIView) < bases.index(IdempotencyMixin):
            raise TypeError(
                f"{cls.__name__}: IdempotencyMixin must stand before the DRF base class, as in"
                f" class {cls.__name__}(IdempotencyMixin, ...)."
            )

    if not TYPE_CHECKING:  # views and viewsets differ in its signature; theirs stand

        @classmethod
        def as_view(cls, *args: Any, **kwargs: Any) -> Callable[..., HttpResponseBase]:
            return _with_own_transaction(super().as_view(*args, **kwargs))

    # Hooks

    def get_idempotency_policy(self) -> Policy:
        """The policy of this request. `using` is taken from the declared policy, never from here:
        the transaction is chosen before the view is there."""
        return Policy() if self._declared is None else self._declared.policy

    def get_idempotency_caller(self, request: Request) -> str:
        """Whose key this is: `user:<pk>`, else an identity from `request.auth`, else `anon`.

        Dangerous to override: two callers with one name are handed each other's replies. Name
        what was authenticated; never take the name from the body, a header or the URL.
        """
        return caller_of(request.user, request.auth)

    # DRF's life cycle

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        method = str(request.method).lower()
        handler = getattr(self, method, None)  # none: dispatch will answer 405
        if self._declared is not None and handler is not None:
            setattr(self, method, partial(self._protected, handler))

    def handle_exception(self, exc: Exception) -> Response:
        if exc is self._given_up:
            raise exc  # the project's exception handler has seen it already
        if self._declared is None:
            return self._respond_to(exc)
        using = ledger.alias(self._declared.policy.using)
        if header_of(self.request._request) is not None and link.unreachable(exc, using=using):
            exc = Unavailable(retry_after=RETRY_AFTER)
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

    @cached_property
    def _declared(self) -> Declaration | None:
        """What this request's action is declared to be; a view lives for one request."""
        method = str(self.request.method).lower()
        return declaration(self, method, getattr(self, "action", None))

    def _protected(
        self, handler: Handler, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        assert self._declared is not None  # noqa: S101 - initial() has seen to it
        name, using = self._declared.operation, ledger.alias(self._declared.policy.using)
        terms = self.get_idempotency_policy().resolve()

        def finished(response: HttpResponseBase) -> HttpResponseBase:
            final: Any = response  # of whichever class; DRF's stubs know Response only
            return replies.render(self.finalize_response(request, final, *args, **kwargs))

        def execute() -> HttpResponseBase:
            with other_blocks(request._request):
                return finished(handler(request, *args, **kwargs))

        def on_error(error: Exception) -> HttpResponseBase:
            try:
                return finished(self.handle_exception(error))
            except Exception as given_up:
                self._given_up = given_up
                raise

        key = key_of(request._request, name, terms)
        ask = partial(operation_of, request._request, key, name=name, terms=terms, using=using)
        if key is not None or terms.execution != "atomic":
            try:
                operation = ask(caller=self.get_idempotency_caller(request), body=_body(request))
            except RecursionError as error:  # the parser's, or the fingerprint's
                raise ParseError("The body is nested too deeply to be read.") from error
            response = protocol.run(operation, execute, on_error, replies.after_sending)
        elif terms.mode == "observe":
            response = observe_keyless(
                name,
                execute,
                lambda: ask(caller=self.get_idempotency_caller(request), body=_parsed(request)),
                using=using,
            )
        else:
            response = protocol.run_without_key(execute, using=using)
        # It is final: dispatch must not finalize it again, nor add headers to a replay.
        setattr(self, "finalize_response", _as_it_is)  # noqa: B010 - on the instance, not the type
        return response

    def _respond_to(self, exc: Exception) -> Response:
        response: Response = super().handle_exception(exc)
        if isinstance(exc, IdempotencyError) and hasattr(exc, "wait"):
            # A project's handler may drop it, and clients tell by it what is worth a retry.
            response.headers.setdefault("Retry-After", str(exc.wait))
        # Where a project's handler made a body of its own, that body stands.
        if isinstance(exc, IdempotencyError) and response.data == {"detail": exc.detail}:
            response.data = exc.problem()
            renderer = getattr(self.request, "accepted_renderer", None)
            if renderer is not None and renderer.media_type == "application/json":
                response.content_type = PROBLEM_JSON
        return response


def _with_own_transaction(served: Any) -> Any:
    """What `as_view` gives, with its transactions decided by method and action."""
    view = served.cls(**served.initkwargs)
    check_declarations(view)
    actions = getattr(served, "actions", None) or {}
    known: dict[str, Declaration | None] = {}

    def alias_of(method: str) -> str | None:
        if method not in known:  # later than now: the application registry may not be ready yet
            known[method] = declaration(view, method, actions.get(method))
        declared = known[method]
        return None if declared is None else ledger.alias(declared.policy.using)

    return own_transaction(served, alias_of)


def _as_it_is(
    request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
) -> HttpResponseBase:
    return response


def _body(request: Request) -> Any:
    """What the view will see of the body, parsed.

    A small JSON body is read without DRF's machinery, which a replay would otherwise pay for; the
    view parses it again. Whatever is odd about it is left to DRF, which may complain.
    """
    raw, parsers = request._request, request.parsers or []
    if (
        raw.META.get("CONTENT_TYPE") == "application/json"
        and raw.META.get("CONTENT_LENGTH", "").isdecimal()
        and int(raw.META["CONTENT_LENGTH"]) <= SMALL_BODY
        and type(next(iter(parsers), None)) is JSONParser
        and not hasattr(raw, "_post")  # a middleware has parsed it
    ):
        try:
            return _read_json(raw.body.decode())
        except (ValueError, RecursionError):
            pass
    return _parsed(request)


def _parsed(request: Request) -> Any:
    """The same by DRF's machinery."""
    try:
        return request.data
    except UnsupportedMediaType:  # no parser of this view reads it, so it counts as it is
        return request._request.body


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


# Made once: `json.loads` would make one for each call with options.
_read_json = json.JSONDecoder(parse_constant=_refuse).decode
