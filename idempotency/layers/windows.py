"""The purge's SQL in the words of each vendor: a window of index entries, and what to do to it."""
# ruff: noqa: S608 - names come from the model, values are parameters

from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.models import DateTimeField

from idempotency.layers.archive import Archive
from idempotency.models import IdempotencyRecord, Job, Step

#: Where a walk is: `purge_at` and `id` of an entry, in the driver's own types.
Position = tuple[Any, int]

_TABLE = IdempotencyRecord._meta.db_table
_INDEX = IdempotencyRecord._meta.indexes[0].name
_COLUMNS = tuple(str(field.column) for field in IdempotencyRecord._meta.concrete_fields)
_MOMENTS = tuple(
    str(field.column)
    for field in IdempotencyRecord._meta.concrete_fields
    if isinstance(field, DateTimeField)
)
#: What goes with its record; by `record_id`, which is indexed in both.
_DEPENDENT: Final = (Job._meta.db_table, Step._meta.db_table)
_LAST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of record to purge."""

    change: str
    #: Asked again where the change is made: a renewed record is not due any more.
    due: str
    #: Whether it deletes, so that jobs and steps have to go as well.
    deletes: bool = False


FORGOTTEN: Final = Stage(f"DELETE FROM {_TABLE}", "purge_at <= %(now)s", deletes=True)
TOMBSTONES: Final = Stage(
    f"UPDATE {_TABLE} SET body = NULL, headers = ''",
    "expires_at <= %(now)s AND (body IS NOT NULL OR headers <> '')",
)


@dataclass(frozen=True, slots=True)
class _Dialect:
    #: Selects now, and some seconds later.
    clock: str
    #: Before every moment.
    beginning: str
    #: `purge_at` such that it compares equal when it is sent back.
    moment: str = "purge_at"
    #: The entries behind one position, up to another. The plain range says nothing new, but lets
    #: PostgreSQL see how few they are: it takes two comparisons of rows for half the table.
    window: str = (
        "purge_at >= %(at)s AND purge_at <= %(to)s"
        " AND (purge_at, id) > (%(at)s, %(at_id)s) AND (purge_at, id) <= (%(to)s, %(to_id)s)"
    )
    #: A moment for the archive: psycopg's datetimes would take most of a record's time.
    archived: str = "{}"
    #: Names the index where the planner would not choose it.
    index: str = ""


_DIALECTS: Final = {
    "postgresql": _Dialect(
        clock="SELECT now(), now() + %(seconds)s * interval '1 second'",
        beginning="-infinity",
        archived="{}::text",
    ),
    "sqlite": _Dialect(
        clock="SELECT strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now'),"
        " strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %(seconds)s || ' seconds')",
        beginning="",
        # Moments are text and compare as text: a datetime would come back with other digits.
        moment="CAST(purge_at AS text)",
    ),
    "mysql": _Dialect(
        clock="SELECT utc_timestamp(6),"
        " utc_timestamp(6) + interval (%(seconds)s * 1000000) microsecond",
        beginning="1000-01-01",
        # A comparison of rows is no range here: the index would be read from its start.
        window=(
            "(purge_at > %(at)s OR purge_at = %(at)s AND id > %(at_id)s)"
            " AND (purge_at < %(to)s OR purge_at = %(to)s AND id <= %(to_id)s)"
        ),
        index=f" FORCE INDEX ({_INDEX})",
    ),
}


class Windows:
    """The windows of one walk over one database."""

    def __init__(self, connection: BaseDatabaseWrapper, span: float) -> None:
        if connection.vendor not in _DIALECTS:
            raise NotImplementedError(f"There is no purge for {connection.vendor!r}.")
        self._connection = connection
        self._dialect = _DIALECTS[connection.vendor]
        # Asked once, as the clock is: what is due by now was settled before, with its last step.
        in_use = ", ".join(f"EXISTS (SELECT 1 FROM {table})" for table in _DEPENDENT)
        with connection.cursor() as cursor:
            cursor.execute(f"{self._dialect.clock}, {in_use}", {"seconds": span})
            self._now, later, *used = cursor.fetchone()
        #: The tables of jobs and steps that hold any: most projects have none to look for.
        self._dependent = [
            table for table, is_used in zip(_DEPENDENT, used, strict=True) if is_used
        ]
        #: Before every entry.
        self.beginning: Position = (self._dialect.beginning, 0)
        #: Behind the entries of this moment, by the database's clock.
        self.now: Position = (self._now, _LAST_ID)
        #: Behind those of `span` seconds later.
        self.horizon: Position = (later, _LAST_ID)

    def end(self, start: Position, last: Position, size: int) -> Position | None:
        """The last of the next `size` entries; `None` where there are not as many up to `last`."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {self._dialect.moment}, id FROM {_TABLE}{self._dialect.index}"
                f" WHERE {self._dialect.window} ORDER BY purge_at, id LIMIT 1 OFFSET %(skip)s",
                _between(start, last) | {"skip": size - 1},
            )
            row: Position | None = cursor.fetchone()
        return row

    def count(self, stage: Stage, start: Position, end: Position) -> int:
        """How many records a change would touch."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"SELECT count(*) FROM {_TABLE}{self._dialect.index} WHERE {self._due(stage)}",
                self._parameters(start, end),
            )
            return int(cursor.fetchone()[0])

    def change(self, stage: Stage, start: Position, end: Position, archive: Archive | None) -> int:
        """Change the window's due records, in a transaction that commits after their archive."""
        connection, parameters = self._connection, self._parameters(start, end)
        using = connection.alias
        with transaction.atomic(using=using, durable=True), connection.cursor() as cursor:
            if connection.vendor == "mysql":
                return self._change_picked(cursor, stage, parameters, archive)
            chosen = self._due(stage)
            if connection.vendor == "postgresql":
                # The row lock keeps the row in its place, and places are found faster than ids.
                chosen = (
                    f"ctid = ANY(ARRAY(SELECT ctid FROM {_TABLE} WHERE {chosen}"
                    f" FOR UPDATE SKIP LOCKED)) AND {stage.due}"
                )
            change = f"{stage.change} WHERE {chosen}"
            dependent = self._dependent if stage.deletes else []
            if archive is None and not dependent:
                cursor.execute(change, parameters)
                return int(cursor.rowcount)
            returned = self._returned(archive)
            change = f"{change} RETURNING {returned}"
            if connection.vendor == "postgresql":
                change = _with_dependent(change, dependent, returned)
            cursor.execute(change, parameters)
            rows = cursor.fetchall()
            if connection.vendor == "sqlite":
                _delete_dependent(cursor, dependent, rows)
            _keep(archive, rows)
            return len(rows)

    def _change_picked(
        self, cursor: CursorWrapper, stage: Stage, parameters: Any, archive: Archive | None
    ) -> int:
        """MariaDB and MySQL can neither skip locked rows in a DELETE nor all return them."""
        skip = " SKIP LOCKED" if self._connection.features.has_select_for_update_skip_locked else ""
        cursor.execute(
            f"SELECT {self._returned(archive)} FROM {_TABLE}{self._dialect.index}"
            f" WHERE {self._due(stage)} FOR UPDATE{skip}",
            parameters,
        )
        rows = cursor.fetchall()
        if not rows:
            return 0
        _keep(archive, rows)
        cursor.execute(f"{stage.change} WHERE id IN ({_ids(rows)}) AND {stage.due}", parameters)
        changed = int(cursor.rowcount)
        if stage.deletes:
            _delete_dependent(cursor, self._dependent, rows)
        return changed

    def _due(self, stage: Stage) -> str:
        return f"{self._dialect.window} AND {stage.due}"

    def _parameters(self, start: Position, end: Position) -> dict[str, Any]:
        return _between(start, end) | {"now": self._now}

    def _returned(self, archive: Archive | None) -> str:
        if archive is None:
            return "id"
        quoted = {name: self._connection.ops.quote_name(name) for name in _COLUMNS}
        moments = {name: self._dialect.archived.format(quoted[name]) for name in _MOMENTS}
        return ", ".join((quoted | moments).values())


def _between(start: Position, end: Position) -> dict[str, Any]:
    return {"at": start[0], "at_id": start[1], "to": end[0], "to_id": end[1]}


def _with_dependent(change: str, tables: list[str], returned: str) -> str:
    """The same in one statement with the jobs and steps of what it deletes."""
    # An array, because the planner would take the few rows that it expects for a nested loop.
    gone = "record_id = ANY(ARRAY(SELECT id FROM gone))"
    deletions = "".join(f", {table}s AS (DELETE FROM {table} WHERE {gone})" for table in tables)
    return f"WITH gone AS ({change}){deletions} SELECT {returned} FROM gone"


def _delete_dependent(
    cursor: CursorWrapper, tables: list[str], rows: list[tuple[Any, ...]]
) -> None:
    for table in tables if rows else ():
        cursor.execute(f"DELETE FROM {table} WHERE record_id IN ({_ids(rows)})")


def _ids(rows: list[tuple[Any, ...]]) -> str:
    return ", ".join(str(int(row[0])) for row in rows)


def _keep(archive: Archive | None, rows: list[tuple[Any, ...]]) -> None:
    if archive is not None:
        archive.write(_COLUMNS, rows)
