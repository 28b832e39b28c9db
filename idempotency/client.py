"""A requests session that may repeat what it sends; no Django, but the extra `client`."""

import logging
from copy import copy
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from idempotency import keys

try:
    import requests
    from requests.adapters import HTTPAdapter
    from requests.structures import CaseInsensitiveDict
    from requests.utils import rewind_body
    from urllib3.exceptions import InvalidHeader, MaxRetryError
    from urllib3.util import Retry
except ImportError as error:
    extra = "pip install 'django-idempotency-ledger[client]'"
    raise ImportError(f"idempotency.client needs requests and urllib3 2: {extra}") from error

log = logging.getLogger(__name__)

#: Methods that change nothing (RFC 9110, section 9.2.1): they get no key.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

#: No connection, silence, a reply cut off halfway.
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

#: Seconds that must be left for another attempt: with less its reply would mostly be lost.
LEAST_ATTEMPT = 0.5


class Backoff(Retry):
    """What is worth another attempt, and after how long; urllib3 does the counting."""

    #: Only with Retry-After: that tells "in progress" from a mismatch.
    RETRY_AFTER_STATUS_CODES = frozenset({409})

    def get_backoff_time(self) -> float:
        """Seconds: random between 0 and 0.25, 0.5, 1, ... 4, so that a crowd spreads out."""
        return uniform(0, min(4.0, 0.25 * 2 ** max(0, len(self.history) - 1)))

    def parse_retry_after(self, retry_after: str) -> float:
        """Seconds, from a number or an HTTP date; 0 where it is neither."""
        try:
            return super().parse_retry_after(retry_after)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0


class RepeatingAdapter(HTTPAdapter):
    """Sends a request until it is answered, unless repeating it could do harm.

    Repeated are safe requests and those with a key, if the body is bytes, text or can seek.
    """

    def __init__(self, header: str, attempts: int, deadline: float, longest_wait: float) -> None:
        super().__init__()
        self.header = header
        self.backoff = Backoff(attempts - 1, allowed_methods=None, status_forcelist={502, 503, 504})
        self.deadline = deadline
        self.longest_wait = longest_wait

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> requests.Response:
        """Return the last attempt's response, or raise what that attempt ended with."""
        end = monotonic() + self.deadline
        state = self.backoff
        while True:
            within = _within(timeout, end - monotonic())
            try:
                reply = super().send(request, stream, within, *args, **kwargs)
                if not stream:
                    _ = reply.content  # Read here: half a reply is a lost reply.
            except LOST as lost:
                lost.request = request  # It has the key; not every exception names it.
                again = self._pause(state, request, end, lost=lost)
                if again is None:
                    raise
            else:
                again = self._pause(state, request, end, reply=reply)
                if again is None:
                    return reply
            state = again

    def _pause(
        self,
        state: Backoff,
        request: requests.PreparedRequest,
        end: float,
        reply: requests.Response | None = None,
        lost: Exception | None = None,
    ) -> Backoff | None:
        """Wait for the next attempt and return its state; None at once if there is none."""
        method = request.method or ""
        harmless = method in SAFE_METHODS or self.header in request.headers
        if not harmless or not _can_resend(request):
            return None
        asked, raw, cause = 0.0, None, type(lost).__name__
        if reply is not None:
            after, raw, cause = reply.headers.get("Retry-After"), reply.raw, str(reply)
            if not state.is_retry(method, reply.status_code, after is not None):
                return None
            asked = state.parse_retry_after(after or "0")
        try:
            state = state.increment(method, request.url, raw, lost)
        except MaxRetryError:
            return None
        wait = min(asked, self.longest_wait) + state.get_backoff_time()
        if wait + LEAST_ATTEMPT > end - monotonic():
            return None
        log.info("Attempt %d in %.2f s after %s", len(state.history) + 1, wait, cause)
        if reply is not None:
            reply.close()
        sleep(wait)
        if hasattr(request.body, "seek"):
            rewind_body(request)
        return state


class IdempotentSession(requests.Session):
    """A `requests.Session` whose unsafe requests carry an idempotency key and are repeated.

    A POST, PUT, PATCH or DELETE gets a UUID as its key, unless the caller gives one, as `key=`
    or as the header itself (sent as it stands). All attempts send the same key and body. To
    try again after this session gave up, give the key in ``response.request.headers`` (or
    ``exception.request.headers``). Safe methods get none.

    Repeated are lost connections, lost and cut-off replies, time-outs, 502, 503, 504, and a 409
    with Retry-After (the first request is still running); no other status, so never a mismatch
    and never a 202. Before each a random pause that grows, on top of Retry-After. In the end
    the last attempt's response is returned, or requests' own exception where it had none. With
    ``stream=True`` the reply's body is the caller's to read, and to lose. A request whose body
    comes from an iterator is sent once.

    `child`: the name of the called service. Inside a protected handler the key is then
    ``child_key(child)``, looked up with each unsafe request, and Idempotency-Scope goes along;
    elsewhere an unsafe request raises LookupError. A second call of the same operation in one
    execution needs another key: ``key=child_key("billing.2")``.
    `header`: the name of the key's header. `strict`: quote the key even where a bare token
    would do, for servers with ``IDEMPOTENCY_KEY_SYNTAX = "strict"``.
    `attempts`: how often a request is sent at most.
    `deadline`: seconds for all attempts and pauses of a request (of each redirect, if any);
    time-outs are cut to what is left. A server that sends bit by bit can exceed it.
    `timeout`: seconds to connect and to wait for data, where the call names none; the second
    is longer than the 10 s for which a server by default lets a duplicate wait.
    `retry_after_max`: seconds that a Retry-After can ask for; more is taken as this much.

    At another origin (scheme, host, port) a redirect arrives without key and scope, and an
    unsafe request without a key is not repeated.
    Threads: one session each, as for `requests.Session`; for `child` see `keys.running`.
    """

    def __init__(
        self,
        *,
        child: str | None = None,
        header: str = "Idempotency-Key",
        strict: bool = False,
        attempts: int = 5,
        deadline: float = 30.0,
        timeout: float | tuple[float | None, float | None] = (3.0, 15.0),
        retry_after_max: float = 10.0,
    ) -> None:
        if attempts < 1 or deadline < LEAST_ATTEMPT:
            raise ValueError(f"Give at least 1 attempt and {LEAST_ATTEMPT} seconds of deadline.")
        if child is not None:
            keys.derive_child_key("parent", child)  # A bad name is found here, not in a handler.
        super().__init__()
        self.child = child
        self.header = header
        self.strict = strict
        self.timeout = timeout
        for prefix in ("https://", "http://"):
            self.mount(prefix, RepeatingAdapter(header, attempts, deadline, retry_after_max))

    def request(  # type: ignore[override]  # `key` is ours; the rest is passed on unread.
        self, method: str, url: str | bytes, *args: Any, key: str | None = None, **kwargs: Any
    ) -> requests.Response:
        """As `requests.Session.request`; `key` is the decoded key of an unsafe request."""
        if key is not None:
            headers = kwargs["headers"] = CaseInsensitiveDict(kwargs.get("headers") or {})
            if method.upper() in SAFE_METHODS or self.header in headers:
                raise ValueError(f"key= is for unsafe methods, and instead of {self.header}.")
            headers[self.header] = keys.format_key(key, strict=self.strict)
        return super().request(method, url, *args, **kwargs)

    if TYPE_CHECKING:  # These pass on what they get; so checkers let `key` through.

        def post(self, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response: ...

        put = patch = delete = post

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As `requests.Session.prepare_request`, and with a key where the method is unsafe."""
        if self.header in self.headers:
            raise ValueError(f"A key belongs to one request: take {self.header} off the session.")
        if (request.method or "").upper() in SAFE_METHODS:
            return super().prepare_request(request)
        headers = CaseInsensitiveDict(request.headers or {})
        if headers.get(self.header) is None:
            key = str(uuid4()) if self.child is None else keys.child_key(self.child)
            headers[self.header] = keys.format_key(key, strict=self.strict)
        if self.child is not None:
            headers[keys.SCOPE_HEADER] = keys.current_scope_digest()
        request = copy(request)  # The caller's own stays as it is.
        request.headers = headers
        return super().prepare_request(request)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As `requests.Session.send`, never without a time-out."""
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.timeout
        return super().send(request, **kwargs)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take key and scope off a redirect that became safe or leads to another origin."""
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        strip = prepared_request.method in SAFE_METHODS or self.should_strip_auth(  # type: ignore[no-untyped-call]
            response.request.url, prepared_request.url
        )
        for name in (self.header, keys.SCOPE_HEADER) if strip else ():
            prepared_request.headers.pop(name, None)


def _can_resend(request: requests.PreparedRequest) -> bool:
    """Whether the body is there for a second attempt."""
    body: Any = request.body
    noted = getattr(request, "_body_position", None)  # Where a file began, if it can tell.
    return isinstance(body, str | bytes | None) or (
        hasattr(body, "seek") and isinstance(noted, int)
    )


def _within(timeout: Any, left: float) -> tuple[float, float]:
    """The time-outs to connect and to read, in seconds, no longer than what is left."""
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    left = max(left, LEAST_ATTEMPT)  # Less only where a pause was longer than it should be.
    return min(connect or left, left), min(read or left, left)
