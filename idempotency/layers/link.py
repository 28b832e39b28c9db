"""What a link to a database tells: whether it is still there, and how its transaction stands."""

from typing import Final

from django.db import InterfaceError, InternalError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

#: MySQL's codes for "no connection": refused, unreachable, gone away, lost, closed while idle.
_LOST = frozenset({2002, 2003, 2006, 2013, 4031})
#: MySQL's and MariaDB's codes for "not now": read-only, a lock's time-out, a deadlock, a statement
#: that took too long or was ended by an operator. Their other OperationalErrors say "never".
_NOT_NOW: Final = frozenset({1290, 1792, 1836, 1205, 1213, 1317, 1969, 3024})
#: SQLSTATE serialization_failure, for which PostgreSQL asks that the transaction be tried again.
_SERIALIZATION_FAILURE = "40001"
#: libpq's PQTRANS_INERROR, in both psycopgs.
_ABORTED = 3


def current(*, using: str) -> object:
    """The driver's connection, to be compared later: Django replaces a broken one by itself."""
    return connections[using].connection


def unreachable(error: BaseException, *, using: str, before: object = None) -> bool:
    """Whether a database error means that nobody answered, rather than "no".

    `before` is the `current` one on which the transaction began. Asked after the transaction.
    """
    # InternalError: what PostgreSQL calls a transaction that was silent for too long.
    if not isinstance(error, OperationalError | InterfaceError | InternalError):
        return False
    connection = connections[using]
    raw = connection.connection
    if connection.vendor == "sqlite":
        return "locked" in str(error) or "unable to open" in str(error)
    if connection.vendor == "mysql" and error.args and error.args[0] in _LOST:
        return True
    replaced = before is not None and raw is not before
    return raw is None or replaced or bool(getattr(raw, "closed", False))


def is_not_now(error: BaseException, *, using: str) -> bool:
    """Whether a statement that is right was refused for the moment: by a standby that is not yet
    promoted, by a time-out behind an operator's lock. Only of our own statements."""
    vendor = connections[using].vendor
    if vendor == "mysql":
        return isinstance(error, OperationalError) and error.args[0] in _NOT_NOW
    refused = isinstance(error, OperationalError | InternalError)
    return vendor == "postgresql" and refused and not is_serialization_failure(error)


def is_serialization_failure(error: BaseException) -> bool:
    """Whether PostgreSQL undid the transaction to keep it apart from others: it may well succeed
    when it is tried again. Only above READ COMMITTED."""
    cause = error.__cause__  # the driver's own
    return _SERIALIZATION_FAILURE in (
        getattr(cause, "sqlstate", None),  # psycopg
        getattr(cause, "pgcode", None),  # psycopg2
    )


def doomed(*, using: str) -> bool:
    """Whether the open transaction cannot commit although no exception is on its way."""
    connection = connections[using]
    if connection.needs_rollback:
        return True
    # A handler that swallows a database error leaves PostgreSQL's transaction aborted.
    raw = connection.connection  # None: closed between two steps, where no transaction is open
    return (
        connection.vendor == "postgresql"
        and raw is not None
        and bool(raw.info.transaction_status == _ABORTED)
    )


def waits(hook: object, *, using: str) -> bool:
    """Whether a hook still waits for the commit: an undone savepoint takes its hooks along."""
    return any(entry[1] is hook for entry in connections[using].run_on_commit)


def limit_silence(seconds: float, *, using: str) -> None:
    """Have PostgreSQL end the open transaction of a host that has vanished."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true)",
                [str(int(seconds * 1000))],
            )


def mend(*, using: str) -> None:
    """Close a connection that an exception in the middle of a commit has left unusable."""
    connection = connections[using]
    if connection.connection is None or connection.in_atomic_block:
        return
    if connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"]:
        connection.close()


def in_transaction(*, using: str) -> bool:
    """Whether a transaction is open: after ours has ended, only a TestCase's can be."""
    connection: BaseDatabaseWrapper = connections[using]
    return connection.in_atomic_block
