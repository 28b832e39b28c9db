"""The ledger's cursors: parameters go beside the statement, and what may be prepared is prepared.

Claim and finish run in every protected request, and PostgreSQL spends more on planning them than
on carrying them out.
"""

from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

#: Runs of a statement on one connection before it is prepared: psycopg's own default.
PREPARE_AFTER: Final = 5


def cursor(connection: BaseDatabaseWrapper) -> CursorWrapper:
    """Django's cursor; on psycopg 3 the one of its two that sends parameters beside the statement.

    The other writes them into the text, so that nothing could be prepared. To be asked for inside
    a transaction, which has seen to the connection's health.
    """
    if connection.vendor != "postgresql":
        return connection.cursor()
    from django.db.backends.postgresql import base  # noqa: PLC0415 - needs the driver

    connection.ensure_connection()
    raw = connection.connection
    binding: Any = getattr(base, "ServerBindingCursor", None)  # psycopg 2 has none
    if binding is None or raw.cursor_factory is not base.Cursor:
        return connection.cursor()  # the project has chosen another
    made = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
    return made(binding(raw))


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
