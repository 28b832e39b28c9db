"""The ledger's cursors: parameters go beside the statement, and what may be prepared is prepared.

Claim and finish run in every protected request, and PostgreSQL spends more on planning them than
on carrying them out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

#: Runs of a statement on one connection before it is prepared: psycopg's own default.
PREPARE_AFTER: Final = 5


#: Where a connection keeps its binding cursor, and of which connection of the driver that is.
_KEPT: Final = "_idempotency_cursor"


@contextmanager
def cursor(connection: BaseDatabaseWrapper) -> Iterator[CursorWrapper]:
    """Django's cursor; on psycopg 3 the one of its two that sends parameters beside the statement.

    The other writes them into the text, so that nothing could be prepared. This one is kept open,
    since making one takes half as long as a statement: read all of an answer before the next. To
    be asked for inside a transaction, which has seen to the connection's health. Where queries are
    logged it is Django's, whose log has no text of a prepared statement.
    """
    kept = None
    if connection.vendor == "postgresql" and not connection.queries_logged:
        kept = _binding(connection)
    if kept is not None:
        yield connection.make_cursor(kept)
    else:
        with connection.cursor() as own:
            yield own


def _binding(connection: BaseDatabaseWrapper) -> Any | None:
    connection.ensure_connection()
    raw = connection.connection
    known, kept = vars(connection).get(_KEPT, (None, None))
    if known is not raw:
        from django.db.backends.postgresql import base  # noqa: PLC0415 - needs the driver

        binding: Any = getattr(base, "ServerBindingCursor", None)  # psycopg 2 has none
        chosen = binding is None or raw.cursor_factory is not base.Cursor  # by the project
        kept = None if chosen else binding(raw)
        vars(connection)[_KEPT] = (raw, kept)
    return kept


def prepare_if_direct(connection: BaseDatabaseWrapper, process: int | None) -> None:
    """Let psycopg prepare statements where the connection leads to one server process only.

    `process` is the id that the server names. A pooler in between, which may hand the next
    transaction to another process, names one of its own when the connection is opened. Whatever
    the database's OPTIONS say of `prepare_threshold` stands.
    """
    raw = connection.connection
    if process is None or getattr(raw, "prepare_threshold", process) is not None:
        return
    chosen = "prepare_threshold" in connection.settings_dict["OPTIONS"]
    if not chosen and raw.info.backend_pid == process:
        raw.prepare_threshold = PREPARE_AFTER
