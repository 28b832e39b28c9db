"""The ledger as it grows: a claim and a finish among few records and among many; their bytes."""

import random
import time
import uuid
from dataclasses import dataclass
from typing import Final

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from benchmarks import measure, planting
from idempotency.fingerprint import payload
from idempotency.layers import ledger
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Candidate, Claimed, Identity, Reply

#: The alias of a database beside the default one, and how many records it has.
SMALL, FEW = "small", 10_000
#: Rounds, and executions of each ledger in a round; the first rounds warm up.
ROUNDS, SIZE, WARM_UP = 80, 10, 8
#: Records whose bytes are counted, how many between two vacuums, and the bytes of their reply.
COUNTED, VACUUM_EVERY, REPLY_SIZE = 10_000, 1_000, 400

_OPERATION: Final = "benchmarks.Protected.post"


@dataclass(frozen=True)
class Growth:
    """What one execution asks of the ledger, and what a record takes."""

    few: int
    many: int
    #: Microseconds of a claim and a finish, the commit aside.
    few_us: float
    many_us: float
    #: The many against the few, round by round.
    ratio: measure.Ratio
    reply_size: int
    #: Bytes with all indexes, vacuumed on the way.
    record_size: float


def compare(many: int) -> Growth:
    """Compare the default ledger, which has so many records, with a small one; then count bytes."""
    planting.empty(SMALL)
    planting.plant(FEW, SMALL)
    few_rounds, many_rounds = [], []
    for number in range(ROUNDS):
        few_times = [_execute(SMALL, FEW) for _ in range(SIZE)]
        many_times = [_execute(DEFAULT_DB_ALIAS, many) for _ in range(SIZE)]
        if number >= WARM_UP:
            few_rounds.append(few_times)
            many_rounds.append(many_times)
    return Growth(
        FEW,
        many,
        measure.quantile([one for times in few_rounds for one in times], 0.5),
        measure.quantile([one for times in many_rounds for one in times], 0.5),
        measure.compared(many_rounds, few_rounds),
        REPLY_SIZE,
        _record_size(),
    )


def _record_size() -> float:
    planting.empty(SMALL)
    body = b'{"text":"%s"}' % (b"x" * (REPLY_SIZE - 11))
    for number in range(COUNTED):
        _execute(SMALL, FEW, body)
        if number % VACUUM_EVERY == VACUUM_EVERY - 1:
            planting.vacuum(SMALL)
    with connections[SMALL].cursor() as cursor:
        cursor.execute(
            "SELECT pg_total_relation_size(%s)::float8", [IdempotencyRecord._meta.db_table]
        )
        return float(cursor.fetchone()[0]) / COUNTED


def _execute(using: str, records: int, body: bytes = b'{"id":1}') -> float:
    """Claim and finish one new key of any caller; microseconds, the commit aside."""
    caller = random.randrange(1 + records // planting.PER_CALLER)
    asked = Candidate(
        identity=Identity(f"user:{caller}/{_OPERATION}", str(uuid.uuid4())),
        operation=_OPERATION,
        fingerprint=payload(
            method="POST", path="/protected/", query="", body={"student": "s", "course": "CS101"}
        ).detailed,
        parent_key="",
        ttl=86_400.0,
        tombstone=86_400.0,
        silence=60.0,
    )
    reply = Reply(201, (("Content-Type", "application/json"),), body)
    with transaction.atomic(using=using):
        started = time.monotonic()
        claimed = ledger.claim(asked, using=using)
        if not isinstance(claimed, Claimed):
            raise AssertionError(f"a new key is {claimed}")
        ledger.finish(claimed, asked, reply, using=using)
        return (time.monotonic() - started) * 1e6
