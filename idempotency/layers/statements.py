"""The ledger's SQL in the words of each vendor: claim, read, finish.

Written by hand: both the claim and the finish run in every protected request, so no ORM compiler
stands in the way, and the PostgreSQL claim has no form in the ORM.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache

from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.models import IdempotencyRecord


@dataclass(frozen=True)
class Statements:
    """SQL with named parameters; the empty string where a vendor needs no such statement."""

    #: Inserts a new key. One row where it is ours, with its id and the server's process
    #: (PostgreSQL, SQLite); else it may fail.
    claim: str
    #: What the key's row says now.
    read: str
    #: Stores the reply under the fence.
    finish: str
    #: As `claim`, for one that commits by itself, with a lease.
    claim_leased: str = ""
    #: Fails at once where another transaction has the row (MariaDB, MySQL).
    probe: str = ""
    #: Claims a row that nobody has any more, under the fence; the same with a lease.
    take_over: str = ""
    take_over_leased: str = ""
    #: Reads what the finish has set, where it cannot return it (MariaDB, MySQL).
    finished: str = ""


@dataclass(frozen=True, eq=False)  # hashed by identity, as a key of the caches below
class _Dialect:
    #: The database's clock at the start of the transaction or statement.
    now: str
    #: The database's clock at the start of the statement: the same in all of its columns.
    clock: str
    #: A moment plus so many seconds.
    plus: str
    #: A moment as seconds since 1970.
    epoch: str
    greatest: str = "greatest"
    #: The server's process, where connections are one to one with processes.
    process: str = "NULL"
    #: What else must hold before a claim may insert.
    guard: str = ""
    #: Whether a statement can pass by rows that somebody has locked.
    skips_locked: bool = False
    #: Types of parameters, where the server cannot tell them from a prepared statement.
    types: Mapping[str, str] = field(default_factory=dict)


_POSTGRESQL = _Dialect(
    now="now()",
    clock="statement_timestamp()",
    plus="{} + {} * interval '1 second'",
    epoch="extract(epoch from {})::float8",
    skips_locked=True,
    process="pg_backend_pid()",
    # The try-lock shows an uncommitted claim without waiting for it; the idle limit frees the key
    # of a host that vanished in mid-transaction. Both end with the transaction (PgBouncer).
    guard=(
        " AND pg_try_advisory_xact_lock(%(identity64)s)"
        " AND set_config('idle_in_transaction_session_timeout', %(silence_ms)s, true) IS NOT NULL"
    ),
    types={
        "scope": "varchar",
        "key": "varchar",
        "operation": "varchar",
        "fingerprint": "bytea",
        "fields": "text",
        "parent_key": "varchar",
        "silence_ms": "text",
        "kept": "float8",
        "ttl": "float8",
        "headers": "text",
        "body": "bytea",
        "state": "varchar",
        "lease": "float8",
        "holds": "boolean",
    },
)
_SQLITE = _Dialect(
    now="strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
    clock="strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
    plus="strftime('%%Y-%%m-%%d %%H:%%M:%%f', {}, {} || ' seconds')",
    epoch="(julianday({}) - 2440587.5) * 86400.0",
    greatest="max",
)
_MYSQL = _Dialect(
    now="utc_timestamp(6)",
    clock="utc_timestamp(6)",
    plus="{} + interval ({} * 1000000) microsecond",
    epoch="timestampdiff(microsecond, '1970-01-01', {}) / 1e6",
)

_TABLE = IdempotencyRecord._meta.db_table


def statements(connection: BaseDatabaseWrapper) -> Statements:
    """The SQL for this connection. Raises NotImplementedError where the ledger cannot run."""
    match connection.vendor:
        case "postgresql":
            return _returning(_POSTGRESQL)
        case "sqlite":
            return _returning(_SQLITE)
        case "mysql":
            return _in_steps(mariadb=bool(getattr(connection, "mysql_is_mariadb", False)))
        case vendor:
            raise NotImplementedError(
                "The idempotency ledger runs on PostgreSQL, MariaDB, MySQL and SQLite, not on"
                f" {vendor!r}: name another alias with Policy(using=...)."
            )


@lru_cache(maxsize=2)
def _returning(dialect: _Dialect) -> Statements:
    # NOT EXISTS keeps a duplicate from waiting for whoever writes a settled record; ON CONFLICT
    # closes the race with a claim that committed after this statement took its snapshot. Taking
    # over is a statement of its own: rare, and planning it would cost every claim.
    def claim(*, leased: bool) -> str:
        names, values = _inserted(dialect, leased=leased)
        return (
            f"INSERT INTO {_TABLE} ({names}) SELECT {values}"
            f" WHERE NOT EXISTS (SELECT 1 FROM {_TABLE} WHERE {_NAMED}){dialect.guard}"
            f" ON CONFLICT (scope, key) DO NOTHING RETURNING id, {dialect.process}"
        )

    # Whoever is at work on the row, a zombie's finish or a purge, is not waited for.
    free = f"{_MINE} AND {_free(dialect)}"
    if dialect.skips_locked:
        free = f"id = (SELECT id FROM {_TABLE} WHERE {free} FOR UPDATE SKIP LOCKED)"
    made = Statements(
        claim=claim(leased=False),
        claim_leased=claim(leased=True),
        read=_read(dialect),
        finish=f"{_finish(dialect)} RETURNING {dialect.epoch.format('expires_at')}",
        take_over=f"{_take_over(dialect, leased=False)} WHERE {free}{dialect.guard}",
        take_over_leased=f"{_take_over(dialect, leased=True)} WHERE {free}{dialect.guard}",
    )
    return _spelt(made, dialect)


@lru_cache(maxsize=2)
def _in_steps(*, mariadb: bool) -> Statements:
    dialect = _MYSQL
    # Never wait for another transaction's row: its commit may be a minute away.
    at_once = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR " if mariadb else ""

    def claim(*, leased: bool) -> str:
        # VALUES, not SELECT: that would hold the table's AUTO-INC lock and stop other keys.
        names, values = _inserted(dialect, leased=leased)
        return f"{at_once}INSERT INTO {_TABLE} ({names}) VALUES ({values})"

    def take_over(*, leased: bool) -> str:
        taken = _take_over(dialect, leased=leased)
        return f"{at_once}{taken} WHERE {_MINE} AND {_free(dialect)}"

    return Statements(
        claim=claim(leased=False),
        claim_leased=claim(leased=True),
        read=_read(dialect),
        finish=_finish(dialect),
        # A locking read of one row takes no gap, as the insert's check for duplicates does: a
        # crowd that polls its key must not stop its neighbours.
        probe=f"SELECT id FROM {_TABLE} WHERE {_NAMED} FOR UPDATE NOWAIT",
        take_over=take_over(leased=False),
        take_over_leased=take_over(leased=True),
        finished=f"SELECT {dialect.epoch.format('expires_at')} FROM {_TABLE} WHERE {_MINE}",
    )


_NAMED = "scope = %(scope)s AND `key` = %(key)s"
_MINE = "id = %(id)s AND attempt = %(attempt)s"


def _written(dialect: _Dialect, *, leased: bool) -> dict[str, str]:
    """What a claim writes, besides whose it is and its attempt."""
    lease = {
        "state": "%(state)s",
        "lease_until": dialect.plus.format(dialect.clock, "%(lease)s"),
        "holds": "%(holds)s",
        "purge_at": "NULL",  # nothing unsettled is ever forgotten
    }
    # The purge is set now, so that the finish changes no indexed column: half the index writes.
    bound = {"purge_at": dialect.plus.format(dialect.now, "%(kept)s")}
    return {
        "operation": "%(operation)s",
        "state": "'running'",
        "fingerprint": "%(fingerprint)s",
        "fields": "%(fields)s",
        "headers": "''",
        "parent_key": "%(parent_key)s",
        "created_at": dialect.now,
    } | (lease if leased else bound)


def _inserted(dialect: _Dialect, *, leased: bool) -> tuple[str, str]:
    whose = {"scope": "%(scope)s", "`key`": "%(key)s", "attempt": "1"}
    columns = whose | _written(dialect, leased=leased)
    return ", ".join(columns), ", ".join(columns.values())


def _take_over(dialect: _Dialect, *, leased: bool) -> str:
    emptied = dict.fromkeys(("status", "body", "completed_at", "expires_at"), "NULL")
    unleased = {"lease_until": "NULL", "holds": "%(holds)s"}
    renewed = {"attempt": "attempt + 1"} | emptied | unleased | _written(dialect, leased=leased)
    assigned = ", ".join(f"{name} = {value}" for name, value in renewed.items())
    return f"UPDATE {_TABLE} SET {assigned}"


def _free(dialect: _Dialect) -> str:
    """Which rows may be taken over: forgotten, given back, or left by an owner that is gone."""
    return (
        f"(purge_at <= {dialect.now} OR state IN ('released', 'abandoned')"
        f" OR state = 'running' AND lease_until <= {dialect.clock} AND NOT holds)"
    )


def _read(dialect: _Dialect) -> str:
    expires = dialect.epoch.format("expires_at")
    return (
        f"SELECT id, attempt, state, fingerprint, fields, status, headers, body, {expires},"
        f" {expires} - {dialect.epoch.format(dialect.now)}, lease_until <= {dialect.clock}, holds,"
        f" purge_at <= {dialect.now}"
        f" FROM {_TABLE} WHERE {_NAMED}"
    )


def _finish(dialect: _Dialect) -> str:
    expires = dialect.plus.format(dialect.clock, "%(ttl)s")
    purge = dialect.plus.format(dialect.clock, "%(kept)s")
    return (
        f"UPDATE {_TABLE} SET state = 'finished', status = %(status)s, headers = %(headers)s,"
        f" body = %(body)s, completed_at = {dialect.clock}, expires_at = {expires},"
        f" lease_until = NULL, purge_at = {dialect.greatest}(coalesce(purge_at, {purge}), {purge})"
        f" WHERE {_MINE} AND state IN ('running', 'job')"
    )


def _spelt(made: Statements, dialect: _Dialect) -> Statements:
    """With typed parameters, and `key` without quotes: MySQL alone needs them, in its own form."""

    def spelt(sql: str) -> str:
        for name, kind in dialect.types.items():
            sql = sql.replace(f"%({name})s", f"%({name})s::{kind}")
        return sql.replace("`key`", "key")

    return replace(made, **{f.name: spelt(getattr(made, f.name)) for f in fields(made)})
