"""The frozen values that the rooms trade; no model, request or client crosses a threshold."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS
from django.utils.functional import cached_property

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

    @cached_property
    def scope_digest(self) -> str:
        """What child calls send, so that two callers' equal keys stay apart downstream."""
        return hashlib.sha256(self.scope.encode()).hexdigest()[:32]

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
    #: `None`: the reply was too large to keep, or no key decrypts it.
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
    """Somebody else holds the lock, by this token; the fingerprint is theirs, where it tells it."""

    fingerprint: Fingerprint | None
    token: bytes


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
    #: The claim commits by itself and lasts so long, unless it is renewed; `None`: it ends with
    #: its transaction.
    lease: float | None = None
    #: An abandoned claim is not taken over: an operator settles what became of it.
    holds: bool = False
    #: A job will stand for the key.
    job: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is ours, until the transaction or the lease ends; `attempt` is the fencing token."""

    record_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The first execution committed this reply."""

    reply: StoredReply


@dataclass(frozen=True, slots=True)
class InFlight:
    """Another execution has the key; not `certain` where a neighbour's lock looks the same."""

    certain: bool = True
    #: Of the request that has it, where it is known.
    fingerprint: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """The replay window is over; the tombstone still refuses."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The execution under this key is gone and left no outcome; its steps and effects outside
    may stand. The same request may take it over, unless it is `held` for an operator."""

    record_id: int
    attempt: int
    fingerprint: Fingerprint
    held: bool


@dataclass(frozen=True, slots=True)
class Attached:
    """A job stands for the key, queued or running."""

    record_id: int
    fingerprint: Fingerprint
    #: Where it was read along.
    job: "JobView | None" = None


# Jobs.


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job to be started. Durations in seconds."""

    task: str
    #: As JSON.
    arguments: str
    lease: float
    ttl: float
    tombstone: float


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as its document shows it."""

    id: UUID
    status: str
    task: str
    done: int | None
    total: int | None
    #: As JSON; `None`: there is none.
    result: str | None
    error_code: str
    error_message: str
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobRun:
    """A job that a worker has begun: it is the worker's as long as it renews the lease."""

    id: UUID
    claimed: Claimed
    candidate: Candidate
    order: JobOrder
    #: Which attempt this is, counted from 1.
    attempts: int


@dataclass(frozen=True, slots=True)
class JobEnding:
    """How a job ended."""

    status: str
    #: The last progress it has reported: how much, of how much.
    progress: tuple[int, int] | None = None
    #: As JSON.
    result: str | None = None
    error_code: str = ""
    error_message: str = ""
    #: For operators only.
    traceback: str = ""
