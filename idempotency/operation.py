"""One request under a key, as the protocol sees it."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from django.http import HttpRequest
from django.utils.functional import cached_property

from idempotency import events
from idempotency.conf import conf, seconds
from idempotency.exceptions import IdempotencyError, KeyReused
from idempotency.fingerprint import Fingerprint, Mismatch, Payload, payload
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
    #: The request had no key that could be used, and got one of its own.
    keyless: bool = False

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
            lease=self.terms.lease if self.terms.execution != "atomic" else None,
            holds=self.terms.on_abandoned == "hold",
            job=self.terms.execution == "job",
        )

    def under(self, key: str) -> "Operation":
        """The same, asked for under another key."""
        return replace(self, identity=replace(self.identity, key=key))

    def mismatch(self, fingerprint: Fingerprint) -> Mismatch | None:
        """How this request differs from another one, beyond what its policy forgives."""
        return self.payload.mismatch(fingerprint, forgive_body=self.terms.forgives_body)

    def refuse_mismatch(self, fingerprint: Fingerprint) -> None:
        """Raises KeyReused where the key stands for another request than this one."""
        mismatch = self.mismatch(fingerprint)
        if mismatch is not None:
            raise KeyReused(
                status=conf.IDEMPOTENCY_MISMATCH_STATUS, mismatched_fields=mismatch.fields
            )


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
        if terms.mode != "observe":
            raise
        return None


def operation_of(
    request: HttpRequest,
    key: str | None,
    *,
    name: str,
    caller: str,
    body: Any,
    terms: Terms,
    using: str,
) -> Operation:
    """The operation that a request asks for; `body` is what the view sees of its body.

    Leases and jobs stand on a record, so there a request without a key gets one of its own.
    """
    narrowing = request.META.get(header_name(SCOPE_HEADER))
    keyless, key = key is None, str(uuid4()) if key is None else key
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
        keyless=keyless,
    )
