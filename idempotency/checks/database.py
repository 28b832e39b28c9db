"""The databases that hold records: what would break a promise there, and what would slow it."""

import re
from collections.abc import Sequence
from typing import Any, Final

from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from idempotency.checks.protected import protected_views
from idempotency.layers import ledger

_ISOLATION_HINT = (
    "Use READ COMMITTED: under a stricter level a claim works on a snapshot from before its"
    " statement, and does not see who has the key. On PostgreSQL, name it in"
    ' OPTIONS["isolation_level"] where the server\'s default is another.'
)
_DURABILITY_HINT = (
    "A crash of the server would forget replies that clients have got, and let their retries run"
    " again. Switch it on for this database, or for its role."
)

#: `-c name=value` and `--name=value` in libpq's options.
_SERVER_OPTION: Final = re.compile(r"(?:-c\s*|--)(\w+)\s*=\s*([\w\\ -]+?)(?=\s+-|\s*$)")


def check_configuration(**kwargs: Any) -> list[CheckMessage]:
    """What DATABASES says, without asking a server."""
    return [message for each in _ours() for message in _configured(each)]


def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """With `check --deploy` only: what is fine while developing."""
    return [
        Warning(
            f"DATABASES[{each.alias!r}] holds the idempotency records and is SQLite: each write"
            " waits for all others, and a busy database answers 503.",
            hint="Use PostgreSQL, MariaDB or MySQL for more than one server process.",
            id="idempotency.W011",
        )
        for each in _ours()
        if each.vendor == "sqlite"
    ]


def check_server(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """What the servers themselves say. One that does not answer says nothing."""
    messages: list[CheckMessage] = []
    for each in _ours():
        if each.alias in (databases or ()) and each.vendor in ("postgresql", "mysql"):
            try:
                with each.cursor() as cursor:
                    messages += _asked(each, cursor)
            except (DatabaseError, ImproperlyConfigured):
                continue  # migrate and the first query say it better
    return messages


def connection_of(using: str | None) -> BaseDatabaseWrapper | None:
    """The connection that holds a policy's records; `None` where routers or settings are broken."""
    try:
        return connections[ledger.alias(using)]
    except Exception:  # noqa: BLE001 - routers are the project's own code
        return None


def _ours() -> list[BaseDatabaseWrapper]:
    """The connections that hold records: the router's choice, and each named by a policy."""
    names = {None, *(view.declared.policy.using for view in protected_views())}
    known = (connection_of(name) for name in names)
    return list({each.alias: each for each in known if each is not None}.values())


def _configured(connection: BaseDatabaseWrapper) -> list[CheckMessage]:
    config, where = connection.settings_dict, f"DATABASES[{connection.alias!r}]"
    given = config.get("OPTIONS")
    options = given if isinstance(given, dict) else {}
    messages: list[CheckMessage] = []
    if connection.vendor not in ("postgresql", "mysql", "sqlite"):
        messages.append(
            Error(
                f"{where} is {connection.vendor}, on which the ledger does not run.",
                hint="Name an alias on PostgreSQL, MariaDB, MySQL or SQLite: Policy(using=...).",
                id="idempotency.E019",
            )
        )
    if config.get("AUTOCOMMIT") is False:
        messages.append(
            Error(
                f"{where} has AUTOCOMMIT = False: nothing commits when a protected action ends.",
                hint="Remove it. Django's atomic blocks need autocommit outside of them.",
                id="idempotency.E020",
            )
        )
    server = _server_options(options) if connection.vendor == "postgresql" else {}
    level = _isolation(connection.vendor, options, server)
    if level is not None:
        messages.append(_wrong_level(f"{where} asks for the isolation level {level}"))
    if server.get("synchronous_commit") in ("off", "false", "no", "0"):
        messages.append(_not_durable(f'{where} has synchronous_commit=off in OPTIONS["options"]'))
    return messages


def _isolation(vendor: str, options: dict[str, Any], server: dict[str, str]) -> str | None:
    """The level that is asked for, where it is another than READ COMMITTED."""
    value: Any = options.get("isolation_level", "read committed")
    if vendor == "postgresql":
        level = _postgresql_level(value)
        if level == "read committed" and "isolation_level" not in options:
            level = re.sub(r"[\\ ]+", " ", server.get("default_transaction_isolation", level))
    elif vendor == "mysql":
        level = "the server's own" if value is None else str(value).lower()
    else:
        return None
    return None if level == "read committed" else level


def _postgresql_level(value: Any) -> str:
    """psycopg's number or constant in words; of both psycopgs, by way of Django."""
    if value == "read committed":
        return "read committed"
    try:
        from django.db.backends.postgresql.psycopg_any import (  # noqa: PLC0415 - a driver's
            IsolationLevel,
        )

        return str(IsolationLevel(value).name).replace("_", " ").lower()
    except (ImportError, ValueError, TypeError):
        return repr(value)[:40]


def _server_options(options: dict[str, Any]) -> dict[str, str]:
    text = str(options.get("options", ""))
    return {name.lower(): value.lower() for name, value in _SERVER_OPTION.findall(text)}


def _asked(connection: BaseDatabaseWrapper, cursor: Any) -> list[CheckMessage]:
    where = f"The server of DATABASES[{connection.alias!r}]"
    messages: list[CheckMessage] = []
    if connection.vendor == "postgresql":
        cursor.execute(
            "SELECT current_setting('transaction_isolation'), current_setting('synchronous_commit')"
        )
        level, commit = cursor.fetchone()
        if level != "read committed":
            messages.append(_wrong_level(f"{where} runs transactions as {level}"))
        if commit == "off":
            messages.append(_not_durable(f"{where} has synchronous_commit=off"))
        return messages
    cursor.execute("SHOW VARIABLES LIKE '%transaction_timeout'")
    limits = {name: float(value) for name, value in cursor.fetchall()}
    if "idle_transaction_timeout" in limits and not limits["idle_transaction_timeout"]:
        messages.append(
            Warning(
                f"{where} has no idle_transaction_timeout: a host that vanishes in mid-transaction"
                " keeps its key, until wait_timeout ends its connection.",
                hint="Set it to about IDEMPOTENCY_LOCK_TIMEOUT, on the server or with"
                ' OPTIONS["init_command"] = "SET SESSION idle_transaction_timeout = 60".',
                id="idempotency.W012",
            )
        )
    return messages


def _wrong_level(message: str) -> CheckMessage:
    return Error(f"{message}.", hint=_ISOLATION_HINT, id="idempotency.E021")


def _not_durable(message: str) -> CheckMessage:
    return Error(f"{message}.", hint=_DURABILITY_HINT, id="idempotency.E022")
