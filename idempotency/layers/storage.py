"""The room that our tables take, out of the database's own catalogue: nothing is counted."""

from dataclasses import dataclass
from typing import Final

from django.db import connections
from django.db.backends.utils import CursorWrapper

from idempotency.models import HourlyCount, IdempotencyRecord, Job, Step

_TABLES: Final = tuple(
    model._meta.db_table for model in (IdempotencyRecord, Job, Step, HourlyCount)
)
_NAMES: Final = ", ".join(["%s"] * len(_TABLES))

#: As its planner does: the rows of a page at the last vacuum, times the pages of today.
_POSTGRESQL: Final = f"""
SELECT relname,
    CASE
        WHEN pg_relation_size(oid) = 0 THEN 0
        WHEN relpages > 0 AND reltuples >= 0 THEN
            (reltuples / relpages
            * (pg_relation_size(oid) / current_setting('block_size')::integer))::bigint
    END,
    pg_total_relation_size(oid)
FROM pg_class WHERE oid IN ({", ".join(["to_regclass(%s)"] * len(_TABLES))})
"""
_MYSQL: Final = f"""
SELECT table_name, table_rows, data_length + index_length
FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN ({_NAMES})
"""
#: The span of the row ids, each end of it by one look; the file's size is that of all tables.
_SQLITE: Final = " UNION ALL ".join(
    f"SELECT '{table}', coalesce((SELECT max(rowid) FROM {table})"
    f" - (SELECT min(rowid) FROM {table}) + 1, 0), NULL"
    for table in _TABLES
)
_SQLITE_FILE: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours."""

    name: str
    #: As the database estimates it; `None` until it has ever looked.
    rows: int | None
    #: Bytes with all indexes; `None` where the database does not tell them apart.
    size: int | None


@dataclass(frozen=True, slots=True)
class Storage:
    """What our tables take. On SQLite `size` is the whole file's."""

    #: The records first.
    tables: tuple[Table, ...]
    #: Bytes.
    size: int

    @property
    def bytes_a_record(self) -> float | None:
        """On average, with indexes; `None` where it is not known."""
        records = self.tables[0]
        if not records.rows or records.size is None:
            return None
        return records.size / records.rows


def measure(*, using: str) -> Storage:
    """The tables of ours in this database. One statement; two on SQLite."""
    connection = connections[using]
    with connection.cursor() as cursor:
        match connection.vendor:
            case "sqlite":
                cursor.execute(_SQLITE_FILE)
                (size,) = cursor.fetchone()
                return Storage(_tables(cursor, _SQLITE, ()), size)
            case "mysql":
                tables = _tables(cursor, _MYSQL, _TABLES)
            case _:
                tables = _tables(cursor, _POSTGRESQL, _TABLES)
    return Storage(tables, sum(table.size or 0 for table in tables))


def _tables(cursor: CursorWrapper, sql: str, names: tuple[str, ...]) -> tuple[Table, ...]:
    cursor.execute(sql, names)
    found = [Table(*row) for row in cursor.fetchall()]
    return tuple(sorted(found, key=lambda table: _TABLES.index(table.name)))
