"""What a link to a database tells: whether it is still there, and how its transaction stands."""

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

#: MySQL's codes for "no connection": refused, unreachable, gone away, lost, closed while idle.
_LOST = frozenset({2002, 2003, 2006, 2013, 4031})
#: libpq's PQTRANS_INERROR, in both psycopgs.
_ABORTED = 3


def current(*, using: str) -> object:
    """The driver's connection, to be compared later: Django replaces a broken one by itself."""
    return connections[using].connection


def unreachable(error: BaseException, *, using: str, before: object = None) -> bool:
    """Whether a database error means that nobody answered, rather than "no".

    `before` is the `current` one on which the transaction began. Asked after the transaction.
    """
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    connection = connections[using]
    raw = connection.connection
    if connection.vendor == "sqlite":
        return "locked" in str(error) or "unable to open" in str(error)
    if connection.vendor == "mysql" and error.args and error.args[0] in _LOST:
        return True
    replaced = before is not None and raw is not before
    return raw is None or replaced or bool(getattr(raw, "closed", False))


def doomed(*, using: str) -> bool:
    """Whether the open transaction cannot commit although no exception is on its way."""
    connection = connections[using]
    if connection.needs_rollback:
        return True
    # A handler that swallows a database error leaves PostgreSQL's transaction aborted.
    return connection.vendor == "postgresql" and bool(
        connection.connection.info.transaction_status == _ABORTED
    )


def in_transaction(*, using: str) -> bool:
    """Whether a transaction is open: after ours has ended, only a TestCase's can be."""
    connection: BaseDatabaseWrapper = connections[using]
    return connection.in_atomic_block
