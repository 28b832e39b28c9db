"""The ledger room: who owns a key, and what came of it. The only truth.

Every call runs inside the caller's transaction on `using`, except the purge, which makes its own.
"""

import json
from typing import Any

from django.db import IntegrityError, OperationalError, connections, router
from django.db.backends.utils import CursorWrapper

from idempotency.exceptions import LeaseLost
from idempotency.fingerprint import Fingerprint
from idempotency.layers import cursors, encryption
from idempotency.layers.statements import Statements, statements
from idempotency.models import IdempotencyRecord, Job, State, Step
from idempotency.outcomes import (
    Abandoned,
    Attached,
    Candidate,
    Claimed,
    Expired,
    Finished,
    InFlight,
    Reply,
    StoredReply,
)

Parameters = dict[str, Any]
Row = tuple[Any, ...]
Verdict = Claimed | Finished | InFlight | Expired | Abandoned | Attached

#: MySQL's codes for "another transaction is in the way": lock time-out, NOWAIT, deadlock.
_CONTENDED = frozenset({1205, 3572, 1213})


def alias(using: str | None) -> str:
    """The database alias of the records: the given one, else the router's."""
    return using or router.db_for_write(IdempotencyRecord)


def claim(candidate: Candidate, *, using: str) -> Verdict:
    """Make the key ours, or say what stands in the way. First statement of its transaction.

    Never waits for another transaction and writes nothing when refused (SQLite, where every write
    waits for every other, excepted). Raises OperationalError where the database is out of reach.
    """
    connection = connections[using]
    sql = statements(connection)
    with cursors.cursor(connection) as cursor:
        if connection.vendor == "mysql":
            return _claim_in_steps(cursor, sql, candidate, using)
        parameters = _claim_parameters(candidate)
        cursor.execute(sql.claim if candidate.lease is None else sql.claim_leased, parameters)
        inserted = cursor.fetchone()
        if inserted is not None:
            record_id, process = inserted
            cursors.prepare_if_direct(connection, process)
            return Claimed(record_id, attempt=1)
        row = _read(cursor, sql, parameters)
    return _claim_free(candidate, row, using) or _verdict(row)


def take_over(candidate: Candidate, left: Abandoned, *, using: str) -> Claimed | None:
    """Make an abandoned key ours; `None` where another was faster, or its owner still writes.

    Whoever had it finds its fencing token outdated.
    """
    connection = connections[using]
    sql = statements(connection)
    taken = {"id": left.record_id, "attempt": left.attempt}
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                sql.take_over if candidate.lease is None else sql.take_over_leased,
                _claim_parameters(candidate) | taken,
            )
            if cursor.rowcount != 1:
                return None
    except OperationalError as error:
        if connection.vendor == "mysql" and error.args and error.args[0] in _CONTENDED:
            return None
        raise
    return Claimed(left.record_id, left.attempt + 1)


def finish(claimed: Claimed, candidate: Candidate, reply: Reply, *, using: str) -> StoredReply:
    """Store the reply under the fence. Last statement of the claim's transaction.

    Raises LeaseLost where the claim is no longer ours; the caller must roll back.
    """
    connection = connections[using]
    sql = statements(connection)
    mine = {"id": claimed.record_id, "attempt": claimed.attempt}
    written = json.dumps(reply.headers, separators=(",", ":"))
    headers, body = encryption.seal_reply(written, reply.body)
    with cursors.cursor(connection) as cursor:
        cursor.execute(
            sql.finish,
            mine
            | {
                "status": reply.status,
                "headers": headers,
                "body": body,
                "ttl": candidate.ttl,
                "kept": candidate.ttl + candidate.tombstone,
            },
        )
        if sql.finished:
            if cursor.rowcount == 0:
                raise LeaseLost(_lost(claimed))
            cursor.execute(sql.finished, mine)
        row = cursor.fetchone()
    if row is None:
        raise LeaseLost(_lost(claimed))
    return StoredReply(
        candidate.fingerprint,
        reply.status,
        reply.headers,
        reply.body,
        expires_at=float(row[0]),
        expires_in=candidate.ttl,
    )


def _claim_in_steps(
    cursor: CursorWrapper, sql: Statements, candidate: Candidate, using: str
) -> Verdict:
    """The claim of MariaDB and MySQL: look, probe, insert; none of them waits (on MySQL, the
    insert may, for a claim that came between)."""
    parameters = _claim_parameters(candidate)
    certain = True
    try:
        row = _read(cursor, sql, parameters)
        if row is None:
            cursor.execute(sql.probe, parameters)
            certain = False
            cursor.execute(sql.claim if candidate.lease is None else sql.claim_leased, parameters)
            return Claimed(record_id=int(cursor.lastrowid), attempt=1)
        return _claim_free(candidate, row, using) or _verdict(row)
    except IntegrityError:  # committed since we looked
        return _verdict(_read(cursor, sql, parameters))
    except OperationalError as error:
        if error.args and error.args[0] in _CONTENDED:
            # The probe met this very row; the insert perhaps a neighbour's gap, or a deadlock.
            return InFlight(certain)
        raise


def _claim_free(candidate: Candidate, row: Row | None, using: str) -> Claimed | None:
    """Claim a record that is given back or past its tombstone; `None` where it is not, or another
    was faster."""
    if row is None or not (row[-1] or row[2] == State.RELEASED):
        return None
    record_id, attempt, _, digests, fields = row[:5]
    left = Abandoned(record_id, attempt, Fingerprint.from_bytes(bytes(digests), fields), held=False)
    claimed = take_over(candidate, left, using=using)
    if claimed is not None:  # what was done under the key before is forgotten too
        Step.objects.using(using).filter(record=record_id).delete()
        Job.objects.using(using).filter(record=record_id).delete()
    return claimed


def _claim_parameters(candidate: Candidate) -> Parameters:
    identity = candidate.identity
    return {
        "scope": identity.scope,
        "key": identity.key,
        "identity64": identity.identity64,
        "operation": candidate.operation,
        "fingerprint": bytes(candidate.fingerprint),
        "fields": candidate.fingerprint.fields,
        "parent_key": candidate.parent_key,
        "kept": candidate.silence + candidate.ttl + candidate.tombstone,
        "silence_ms": str(int(candidate.silence * 1000)),
        "state": State.JOB.value if candidate.job else State.RUNNING.value,
        "lease": candidate.lease,
        "holds": candidate.holds,
    }


def _read(cursor: CursorWrapper, sql: Statements, parameters: Parameters) -> Row | None:
    cursor.execute(sql.read, {name: parameters[name] for name in ("scope", "key")})
    row: Row | None = cursor.fetchone()
    return row


def _verdict(row: Row | None) -> Verdict:
    if row is None:
        return InFlight()  # the claim is there, its commit is not
    record_id, attempt, state, digests, fields, status, headers, body, *times = row
    expires_at, expires_in, lapsed, holds, purgeable = times
    if purgeable or state == State.RELEASED:
        return InFlight()  # a take-over is running
    fingerprint = Fingerprint.from_bytes(bytes(digests), fields)
    match state:
        case State.RUNNING if not lapsed:
            return InFlight(fingerprint=fingerprint)
        case State.RUNNING:
            return Abandoned(record_id, attempt, fingerprint, held=bool(holds))
        case State.ABANDONED | State.UNKNOWN:
            return Abandoned(record_id, attempt, fingerprint, held=state == State.UNKNOWN)
        case State.JOB:
            return Attached(record_id, fingerprint)
        case State.FINISHED:
            pass
        case _:
            raise AssertionError(f"a record in the unknown state {state!r}")
    if expires_in <= 0 or not headers:  # without headers: a purge has just emptied it
        return Expired()
    stored = None if body is None else bytes(body)
    headers, body = encryption.unseal_reply(headers, stored)
    return Finished(
        StoredReply(
            fingerprint,
            status,
            tuple((name, value) for name, value in json.loads(headers)),
            body,
            expires_at=float(expires_at),
            # What cannot be read here is not published: its key may be put back.
            expires_in=0.0 if body is None and stored is not None else float(expires_in),
        )
    )


def _lost(claimed: Claimed) -> str:
    return f"record {claimed.record_id} is no longer running at attempt {claimed.attempt}"
