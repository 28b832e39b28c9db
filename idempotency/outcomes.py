"""The frozen values that the rooms trade; no model, request or client crosses a threshold."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from django.db import DEFAULT_DB_ALIAS

from idempotency.fingerprint import Fingerprint


@dataclass(frozen=True)
class Identity:
    """Who asks for what: the scope (caller and operation), the key, and in which database."""

    scope: str
    key: str
    #: The alias of the ledger: a router may give each tenant one, and they share the caches.
    using: str = DEFAULT_DB_ALIAS

    @cached_property
    def digest(self) -> str:
        """32 hex digits that stand for all of it in Redis names and logs."""
        scope = self.scope.encode()
        key = self.key.encode()
        material = b"%d:%b:%d:%b:%b" % (len(scope), scope, len(key), key, self.using.encode())
        return hashlib.blake2b(material, digest_size=16).hexdigest()

    @property
    def identity64(self) -> int:
        """A stable signed 64-bit number; a collision only means a spurious "in flight"."""
        return int.from_bytes(bytes.fromhex(self.digest)[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as the client got it, and what it answered."""

    fingerprint: Fingerprint
    status: int
    headers: tuple[tuple[str, str], ...]
    #: `None`: the reply was too large to keep.
    body: bytes | None
    #: When it stops being replayed: seconds since the epoch, by the database's clock.
    expires_at: float
    #: Seconds left until then when the ledger was asked; a cache counts from there.
    expires_in: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A captured reply on its way into the ledger."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


# What the lock room answers, besides a StoredReply.


@dataclass(frozen=True, slots=True)
class Held:
    """The lock is ours; `token` releases it and is needed to publish."""

    token: bytes


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else holds the lock; the fingerprint is theirs, where their token tells it."""

    fingerprint: Fingerprint | None


@dataclass(frozen=True, slots=True)
class Off:
    """The rooms are absent, unreachable or stepped aside: the ledger alone orders the crowd."""


# What the ledger is asked, and what it answers.


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that wants to be the one execution of its key. Durations in seconds."""

    identity: Identity
    operation: str
    fingerprint: Fingerprint
    parent_key: str
    ttl: float
    tombstone: float
    #: Longest silence inside the transaction before the database ends it.
    silence: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is ours until the transaction ends; `attempt` is the fencing token."""

    record_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The first execution committed this reply."""

    reply: StoredReply


@dataclass(frozen=True, slots=True)
class InFlight:
    """Another transaction has the key; not `certain` where a neighbour's lock looks the same."""

    certain: bool = True


@dataclass(frozen=True, slots=True)
class Expired:
    """The replay window is over; the tombstone still refuses."""
