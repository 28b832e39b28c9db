"""Leased executions and jobs: what they need of the database, of Celery and of the URLs."""

from collections import defaultdict
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name
from django.urls import NoReverseMatch, reverse

from idempotency.checks.database import connection_of
from idempotency.checks.protected import ProtectedView, protected_views

_CARRIES_OUT: Final = "idempotency.run_job"
_SWEEPS: Final = "idempotency.recover"
_PURGES: Final = "idempotency.purge"
#: The module of both.
_TASKS: Final = "idempotency.tasks"
#: The only scheduler that reads nothing but the configuration.
_SCHEDULER: Final = "celery.beat:PersistentScheduler"


def check_leases(**kwargs: Any) -> list[CheckMessage]:
    """Whether the databases of leased executions and jobs can keep a lease."""
    found: defaultdict[str, list[ProtectedView]] = defaultdict(list)
    for view in protected_views():
        policy = view.declared.policy
        connection = connection_of(policy.using) if policy.execution != "atomic" else None
        if connection is not None and connection.vendor == "sqlite":
            found[connection.alias].append(view)
    return [
        Error(
            f"Leased executions or jobs are asked for by {_names(views)}, and DATABASES[{alias!r}]"
            " is SQLite, where a handler's writes would stop every heartbeat.",
            hint="Use PostgreSQL, MariaDB or MySQL, by Policy(using=...) for these views alone, or"
            ' Policy(execution="atomic").',
            id="idempotency.E025",
        )
        for alias, views in sorted(found.items())
    ]


def check_jobs(**kwargs: Any) -> list[CheckMessage]:
    """Whether jobs can be sent from here, and asked for."""
    started = _started()
    if not started:
        return []
    messages = _check_application(started)
    try:
        reverse("idempotency:job", args=[UUID(int=0)])
    except NoReverseMatch:
        messages.append(
            Warning(
                f"{started}, and idempotency.urls is not included: the 202 carries no Location, and"
                " only a retry under the same key tells how far its job is.",
                hint='Add path("idempotency/", include("idempotency.urls")) to the URL patterns.',
                id="idempotency.W014",
            )
        )
    return messages


def check_workers(**kwargs: Any) -> list[CheckMessage]:
    """With `check --deploy` only, because it loads what workers load: whether they know what to do
    with a job's message, and who sends it again."""
    started = _started()
    if not started or find_spec("celery") is None:
        return []
    try:
        app = _application()
        if app is None:
            return []  # idempotency.W016
        app.loader.import_default_modules()
        known = _TASKS in app.loader.task_modules or _CARRIES_OUT in app.tasks
        scheduled = {entry.get("task") for entry in (app.conf.beat_schedule or {}).values()}
        if app.conf.beat_scheduler != _SCHEDULER:
            scheduled = {_SWEEPS, _PURGES}  # another one may have them elsewhere
    except Exception:  # noqa: BLE001 - the project's modules and settings; its workers report it
        return []
    messages: list[CheckMessage] = []
    if not known:
        messages.append(
            Warning(
                f"{started}, and the workers of the Celery application {app.main!r} do not load"
                f" {_TASKS}: they would throw the jobs' messages away.",
                hint="Call app.autodiscover_tasks() without a list, or put it into"
                f' include=["{_TASKS}"].',
                id="idempotency.W017",
            )
        )
    if _SWEEPS not in scheduled:
        messages.append(
            Warning(
                f"{started}, and beat_schedule has no {_SWEEPS}: a job whose message or worker is"
                " lost would wait for ever.",
                hint="Put it there for every minute or less. Where something else runs"
                " idempotency_recover as often, silence this check.",
                id="idempotency.W018",
            )
        )
    if _PURGES not in scheduled:
        messages.append(
            Warning(
                f"{started}, and beat_schedule has no {_PURGES}: records, jobs and their arguments"
                " would be kept for ever.",
                hint="Put it there for every hour. Where something else runs idempotency_purge,"
                " silence this check.",
                id="idempotency.W025",
            )
        )
    return messages


def _check_application(started: str) -> list[CheckMessage]:
    if find_spec("celery") is None:
        return [
            Error(
                f"{started}, and Celery is not installed.",
                hint='Install celery, or use Policy(execution="leased").',
                id="idempotency.E026",
            )
        ]
    try:
        app = _application()
        eager = app is not None and app.conf.task_always_eager
    except Exception:  # noqa: BLE001 - the project's configuration; Celery's commands report it
        return []
    if app is None:
        return [
            Warning(
                f"{started}, and this process has no Celery application: their messages would go to"
                " a broker on localhost, whatever the settings say.",
                hint="Import the application where the project's package begins, in its"
                " __init__.py: from .celery import app.",
                id="idempotency.W016",
            )
        ]
    if eager and not settings.DEBUG:
        return [
            Warning(
                f"{started}, and task_always_eager is on: each runs in the request that starts it,"
                " which waits for its end, and outside of the workers' limits.",
                hint="Remove task_always_eager (CELERY_TASK_ALWAYS_EAGER), or keep it for DEBUG.",
                id="idempotency.W015",
            )
        ]
    return []


def _application() -> Any:
    """The project's Celery application; `None` where it has made none."""
    from celery import current_app  # noqa: PLC0415 - Celery is an extra
    from celery.loaders.default import Loader  # noqa: PLC0415 - the same

    loader = current_app.loader
    if isinstance(loader, Loader):  # of what Celery makes up then, unless it is told how
        loader.read_configuration()
        return current_app if loader.configured else None
    return current_app


def _started() -> str:
    """The beginning of a sentence about the views that start jobs; empty where there are none."""
    names = _names(view for view in protected_views() if view.declared.policy.execution == "job")
    return f"Jobs are started by {names}" if names else ""


def _names(views: Iterable[ProtectedView]) -> str:
    return ", ".join(sorted({view.dotted for view in views}))
