"""One request under a key, as the protocol sees it."""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.http import HttpRequest

from idempotency import events
from idempotency.conf import conf, seconds
from idempotency.exceptions import IdempotencyError
from idempotency.fingerprint import Payload, payload
from idempotency.identity import header_name, identify, parent_of, read_key
from idempotency.keys import SCOPE_HEADER
from idempotency.outcomes import Candidate, Identity
from idempotency.policy import Terms

#: Methods that are never touched (RFC 9110, section 9.2.1), in lower case.
SAFE_METHODS: Final[AbstractSet[str]] = frozenset({"get", "head", "options", "trace"})


@dataclass(frozen=True)
class Operation:
    """Who asks for what under which key, and what is promised."""

    name: str
    identity: Identity
    payload: Payload
    terms: Terms
    using: str
    parent_key: str = ""

    @cached_property
    def candidate(self) -> Candidate:
        """This request as the ledger sees it."""
        return Candidate(
            identity=self.identity,
            operation=self.name,
            fingerprint=self.payload.detailed,
            parent_key=self.parent_key,
            ttl=self.terms.ttl,
            tombstone=self.terms.tombstone,
            silence=seconds(conf.IDEMPOTENCY_LOCK_TIMEOUT),
        )

    @cached_property
    def scope_digest(self) -> str:
        """What child calls send, so that two callers' equal keys stay apart downstream."""
        return hashlib.sha256(self.identity.scope.encode()).hexdigest()[:32]


def header_of(request: HttpRequest) -> str | None:
    """The idempotency key's header, undecoded."""
    return request.META.get(header_name(conf.IDEMPOTENCY_HEADER))


def key_of(request: HttpRequest, name: str, terms: Terms) -> str | None:
    """The request's key, if it has one. Raises KeyRequired or KeyInvalid.

    In observe mode nothing is refused: such a request is counted and runs without a key.
    """
    try:
        return read_key(header_of(request), terms)
    except IdempotencyError as refusal:
        events.record(events.Event(events.REFUSED, name, refusal.default_code))
        if terms.mode == "observe":
            return None
        raise


def operation_of(
    request: HttpRequest, key: str, *, name: str, caller: str, body: Any, terms: Terms, using: str
) -> Operation:
    """The operation that a request asks for; `body` is what the view will see of its body."""
    narrowing = request.META.get(header_name(SCOPE_HEADER))
    return Operation(
        name=name,
        identity=identify(caller, name, narrowing, key, using),
        payload=payload(
            method=str(request.method),
            path=request.path,
            query=request.META.get("QUERY_STRING", ""),
            body=body,
            ignore_fields=terms.ignore_fields,
        ),
        terms=terms,
        using=using,
        parent_key=parent_of(key, narrowing),
    )
