"""Each system check fires where it should, is silent where it should not, and never crashes."""

import base64
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state
from django.apps import apps
from django.core.checks import CheckMessage, Tags, run_checks
from django.db import OperationalError, connection, connections
from django.http import HttpResponse
from django.urls import include, path
from rest_framework import viewsets
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from idempotency import checks
from idempotency.checks import cache, rules
from idempotency.checks.cache import BACKENDS, CLIENTS
from idempotency.checks.database import check_server
from idempotency.checks.rules import RULES
from idempotency.checks.settings import KNOWN
from idempotency.decorators import idempotent_view
from idempotency.layers import ledger
from idempotency.policy import SHORTEST_LEASE, Policy
from idempotency.views import IdempotencyMixin
from tests.worked.messages import Messages

REDIS = {
    "BACKEND": "django_redis.cache.RedisCache",
    "LOCATION": "redis://127.0.0.1:6379/0",
    "OPTIONS": {"SOCKET_TIMEOUT": 0.5, "SOCKET_CONNECT_TIMEOUT": 0.5},
}


def said(**kwargs: Any) -> list[CheckMessage]:
    """What our checks say; where databases are named, what the servers' checks say as well."""
    tags = [checks.TAG, *([Tags.database] if "databases" in kwargs else [])]
    every = run_checks(tags=tags, **kwargs)
    ours = [each for each in every if str(each.id).startswith("idempotency.")]
    assert all(each.hint for each in ours)
    return ours


def found(**kwargs: Any) -> set[str]:
    """The ids of what they say, without the package's name."""
    return {str(each.id).removeprefix("idempotency.") for each in said(**kwargs)}


def message(number: str) -> str:
    return next(each.msg for each in said() if each.id == f"idempotency.{number}")


@pytest.fixture(autouse=True)
def clean(settings: Any) -> None:
    """A project in production that has nothing to hear."""
    settings.DEBUG = False
    settings.CACHES = {"default": REDIS}
    settings.ROOT_URLCONF = urls()


def urls(*patterns: Any) -> Any:
    """A URL configuration, as a module."""
    module = ModuleType("urls_of_a_test")
    module.urlpatterns = list(patterns)  # type: ignore[attr-defined] # a module made here
    return module


def routed(*views: Any) -> Any:
    return urls(*(path(f"{number}/", view.as_view()) for number, view in enumerate(views)))


# All of them


@pytest.mark.vendors("postgresql")
def test_a_clean_project_hears_nothing() -> None:
    assert found(include_deployment_checks=True) == set()


@pytest.mark.django_db
@pytest.mark.vendors("postgresql")
def test_a_clean_server_says_nothing() -> None:
    assert found(databases=["default"]) == set()


def test_no_id_stands_for_two_things() -> None:
    rules = [rule.id for rule in RULES]
    assert len(rules) == len(set(rules))
    assert all(re.fullmatch(r"idempotency\.E0\d\d", number) for number in rules)


def ids_in_the_sources() -> list[str]:
    sources = Path(checks.__file__).parent.glob("*.py")
    return re.findall(r'"(idempotency\.[EW]\d{3})"', "".join(map(Path.read_text, sources)))


def test_no_id_is_given_twice_in_the_sources() -> None:
    ids = ids_in_the_sources()
    assert len(ids) > len(RULES)
    assert [number for number, times in Counter(ids).items() if times > 1] == []


def test_every_id_is_fired_by_a_test() -> None:
    """Those of the settings are: their tests go through the rules."""
    here = Path(__file__).read_text()
    others = set(ids_in_the_sources()) - {rule.id for rule in RULES}
    assert {each for each in others if f'"{each.removeprefix("idempotency.")}"' not in here} == {
        "idempotency.W001"  # by its whole name
    }


def test_nothing_static_asks_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any) -> None:
        pytest.fail("a check went to the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr(connection, "connect", connect)
    found(include_deployment_checks=True)


# Settings


def test_every_setting_has_a_check() -> None:
    assert {rule.name for rule in RULES} == KNOWN
    assert "IDEMPOTENCY_TTL" in KNOWN


# The same in each process that shares the suite: tests are named after it.
FERNET = base64.urlsafe_b64encode(hashlib.sha256(b"tests").digest()).decode()
WRONG: dict[str, list[Any]] = {
    "IDEMPOTENCY_REQUIRED": ["yes", 1, None],
    "IDEMPOTENCY_MISMATCH": ["loose", None, ["strict"]],
    "IDEMPOTENCY_IN_FLIGHT": ["queue", True],
    "IDEMPOTENCY_WAIT_TIMEOUT": [-1, "10", True, timedelta(seconds=-1), float("nan")],
    "IDEMPOTENCY_TTL": [0, None, timedelta(0), float("inf"), 10**400],
    "IDEMPOTENCY_TOMBSTONE": [-1, "1 day", timedelta.max],
    "IDEMPOTENCY_KEY_FORMAT": ["(", "", None, 5, "a{99999999999999999999}"],
    "IDEMPOTENCY_KEY_SYNTAX": ["any", None],
    "IDEMPOTENCY_MODE": ["off", False],
    "IDEMPOTENCY_CACHE": ["nowhere", None, {}],
    "IDEMPOTENCY_HEADER": ["", "Idempotency Key", "Idempotency_Key", "Content-Type", None, "a\n"],
    "IDEMPOTENCY_REPLAYED_HEADER": ["", "Idempotent:Replayed", None, "caf\xe9"],
    "IDEMPOTENCY_MISMATCH_STATUS": [200, 500, 429, "409", True, None],
    "IDEMPOTENCY_LOCK_TIMEOUT": [0, 0.0001, timedelta(days=25), None],
    "IDEMPOTENCY_MAX_WAITERS": [-1, 1.5, "4", True],
    "IDEMPOTENCY_MAX_BODY": [-1, "1 MiB", None],
    "IDEMPOTENCY_PREFIX": ["", "a{b}", "a b", "a\n", None, "\xe9"],
    "IDEMPOTENCY_ENCRYPTION_KEYS": [
        None,
        [],
        FERNET,
        [FERNET, "short"],
        [FERNET[:-1]],
        [FERNET, 5],
        {FERNET},
        ["\xe9" * 44],
    ],
    "IDEMPOTENCY_LEASE": [0, 0.5, -60, "60", None, True, timedelta(days=25), float("nan")],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_setting_is_named(settings: Any, name: str, value: Any) -> None:
    setattr(settings, name, value)
    number = next(rule.id for rule in RULES if rule.name == name).removeprefix("idempotency.")
    assert number in found()
    assert message(number).startswith(f"{name} must be ")


RIGHT: dict[str, list[Any]] = {
    "IDEMPOTENCY_REQUIRED": [True],
    "IDEMPOTENCY_MISMATCH": ["strict", "lenient"],
    "IDEMPOTENCY_IN_FLIGHT": ["wait", "reject"],
    "IDEMPOTENCY_WAIT_TIMEOUT": [0, 2.5, timedelta(seconds=20)],
    "IDEMPOTENCY_TTL": [1, timedelta(days=30)],
    "IDEMPOTENCY_TOMBSTONE": [0, timedelta(days=365)],
    "IDEMPOTENCY_KEY_FORMAT": ["any", "uuid", "ulid", r"order-\d+"],
    "IDEMPOTENCY_KEY_SYNTAX": ["lenient", "strict"],
    "IDEMPOTENCY_MODE": ["enforce", "observe"],
    "IDEMPOTENCY_CACHE": ["default"],
    "IDEMPOTENCY_HEADER": ["X-Idempotency-Key"],
    "IDEMPOTENCY_REPLAYED_HEADER": ["X-Replayed"],
    "IDEMPOTENCY_MISMATCH_STATUS": [409, 422],
    "IDEMPOTENCY_LOCK_TIMEOUT": [30, timedelta(minutes=5)],
    "IDEMPOTENCY_MAX_WAITERS": [0, 16],
    "IDEMPOTENCY_MAX_BODY": [0, 10_000_000],
    "IDEMPOTENCY_PREFIX": ["shop:v2"],
    "IDEMPOTENCY_ENCRYPTION_KEYS": [[FERNET], (FERNET.encode(), FERNET)],
    "IDEMPOTENCY_LEASE": [SHORTEST_LEASE, 90.5, timedelta(days=24)],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in RIGHT.items() for value in values]
)
def test_a_right_setting_passes(settings: Any, name: str, value: Any) -> None:
    setattr(settings, name, value)
    assert not {number for number in found() if number[0] == "E"}


@pytest.mark.parametrize("keys", [[FERNET[:-1]], FERNET])
def test_a_wrong_encryption_key_is_not_shown(settings: Any, keys: Any) -> None:
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = keys
    assert FERNET[:8] not in message("E027")


def test_encryption_needs_its_package(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idempotency.checks.settings.find_spec", lambda name: None)
    assert "E028" not in found()
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [FERNET]
    assert "E028" in found()


def test_an_encryption_key_that_can_be_guessed(settings: Any) -> None:
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [FERNET]
    assert found() == set()
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [FERNET, base64.urlsafe_b64encode(b"changeme" * 4)]
    assert found() == {"W019"}


class Unspeakable:
    """Garbage of the worst kind."""

    def __repr__(self) -> str:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None


@pytest.mark.parametrize("garbage", [Unspeakable(), object(), b"\xff", [[]], {"a": 1}, -(10**400)])
def test_garbage_never_crashes_a_check(settings: Any, garbage: Any) -> None:
    for name in sorted(KNOWN):
        setattr(settings, name, garbage)
    settings.CORS_ALLOW_HEADERS = garbage
    assert len({number for number in found() if number[0] == "E"}) >= len(KNOWN)


@pytest.mark.parametrize("garbage", [None, 5, "redis", {"default": 5}, {"default": {}}])
def test_garbage_caches_never_crash_a_check(monkeypatch: pytest.MonkeyPatch, garbage: Any) -> None:
    # Not by the settings: Django itself would stumble, after the checks.
    garbled = SimpleNamespace(CACHES=garbage, DEBUG=False, IDEMPOTENCY_CACHE="default")
    for module in (cache, rules):
        monkeypatch.setattr(module, "settings", garbled)
    found()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("IDEMPOTENCY_TLL", "Did you mean IDEMPOTENCY_TTL?"), ("IDEMPOTENCY_ZZZZZZZZZZZZZ", "Remove")],
)
def test_a_setting_that_nothing_reads_is_named(settings: Any, name: str, hint: str) -> None:
    setattr(settings, name, 5)
    (warning,) = [each for each in said() if each.id == "idempotency.W001"]
    assert name in warning.msg
    assert hint in str(warning.hint)


def test_a_lock_shorter_than_the_wait(settings: Any) -> None:
    settings.IDEMPOTENCY_LOCK_TIMEOUT = 5
    assert "W002" in found()
    settings.IDEMPOTENCY_WAIT_TIMEOUT = timedelta(seconds=5)
    assert "W002" not in found()


def test_use_tz(settings: Any) -> None:
    settings.USE_TZ = False
    assert "W003" in found()


@pytest.fixture
def cors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if django-cors-headers were installed."""
    installed = apps.is_installed
    monkeypatch.setattr(apps, "is_installed", lambda name: name == "corsheaders" or installed(name))


@pytest.mark.parametrize(
    ("exposed", "hidden"),
    [
        (None, "Idempotent-Replayed and Retry-After"),
        (["retry-after"], "Idempotent-Replayed"),
        (["Retry-After", "Idempotent-Replayed"], ""),
        (5, "Idempotent-Replayed and Retry-After"),
    ],
)
def test_cors_must_expose_the_headers(settings: Any, cors: None, exposed: Any, hidden: str) -> None:
    if exposed is not None:
        settings.CORS_EXPOSE_HEADERS = exposed
    assert ("W023" in found()) is bool(hidden)
    assert not hidden or f"lacks {hidden}:" in message("W023")


def test_without_cors_nothing_need_be_exposed() -> None:
    assert "W023" not in found()


@pytest.mark.parametrize(
    ("allowed", "warned"),
    [(None, True), (["accept"], True), (["accept", "idempotency-key"], False), (5, True)],
)
def test_cors_must_allow_the_header(settings: Any, cors: None, allowed: Any, warned: bool) -> None:
    if allowed is not None:
        settings.CORS_ALLOW_HEADERS = allowed
    assert ("W004" in found()) is warned


def test_without_cors_nothing_need_be_allowed() -> None:
    assert "W004" not in found()


# Cache


@pytest.mark.parametrize("path", sorted(path for path, reason in BACKENDS.items() if reason))
def test_an_unfit_backend_is_told_with_its_reason(settings: Any, path: str) -> None:
    settings.CACHES = {"default": {"BACKEND": path}}
    assert found() == {"W005"}
    assert BACKENDS[path] in message("W005")


def test_only_the_named_cache_is_looked_at(settings: Any) -> None:
    unfit = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "t"}
    settings.CACHES = {"default": unfit, "fast": REDIS}
    assert "W005" in found()
    settings.IDEMPOTENCY_CACHE = "fast"
    assert "W005" not in found()


def test_a_project_of_its_own_backend_counts_as_its_base(settings: Any) -> None:
    settings.CACHES = {"default": REDIS | {"BACKEND": f"{__name__}.OwnRedis"}}
    assert found().isdisjoint({"W005", "W006", "E018"})
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.OwnFiles"}}
    assert "W005" in found()


def test_an_unknown_backend_is_warned_of(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.base.BaseCache"}}
    assert "W006" in found()


@pytest.mark.parametrize("path", ["no.such.Cache", "", "nodots", f"{__name__}.Broken"])
def test_a_backend_that_cannot_be_imported(settings: Any, path: str) -> None:
    settings.CACHES = {"default": {"BACKEND": path}}
    assert "E018" in found()


def test_locmem_is_for_development(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert "W007" in found()
    settings.DEBUG = True
    assert "W007" not in found()


def test_the_dummy_cache_says_go_without(settings: Any) -> None:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert not {number for number in found() if number in {"W005", "W006", "W007"}}


def redis(location: str = "redis://127.0.0.1/0", **options: Any) -> dict[str, Any]:
    return {"default": REDIS | {"LOCATION": location, "OPTIONS": REDIS["OPTIONS"] | options}}  # type: ignore[operator] # a dict


@pytest.mark.parametrize("client", [*CLIENTS, "project.Client"])
def test_the_redis_client_must_be_known(settings: Any, client: str) -> None:
    settings.CACHES = redis(CLIENT_CLASS=client)
    assert ("W008" in found()) is bool(CLIENTS.get(client, "unknown"))


@pytest.mark.parametrize(
    ("caches", "lacking"),
    [
        (redis(), ()),
        (redis(SOCKET_TIMEOUT=None), ("SOCKET_TIMEOUT",)),
        (redis(SOCKET_CONNECT_TIMEOUT=0), ("SOCKET_CONNECT_TIMEOUT",)),
        (redis(SOCKET_TIMEOUT=60), ("SOCKET_TIMEOUT",)),
        (redis(SOCKET_TIMEOUT="garbage"), ("SOCKET_TIMEOUT",)),
        (redis(SOCKET_TIMEOUT=None, CONNECTION_POOL_KWARGS={"socket_timeout": 1}), ()),
        (redis(CONNECTION_POOL_KWARGS={"socket_timeout": 60}), ("SOCKET_TIMEOUT",)),
        (redis("redis://h/0?socket_timeout=1", SOCKET_TIMEOUT=None), ()),
        ({"default": REDIS | {"OPTIONS": 5}}, ("SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT")),
        ({"default": REDIS | {"LOCATION": "redis://[/"}}, ()),
    ],
)
def test_socket_time_outs_are_insisted_on(
    settings: Any, caches: Any, lacking: tuple[str, ...]
) -> None:
    settings.CACHES = caches
    assert ("W009" in found()) is bool(lacking)
    assert all(f"no {name}" in message("W009") for name in lacking)


@pytest.mark.parametrize(
    "options",
    [
        {"CONNECTION_POOL_KWARGS": {"retry_on_timeout": True}},
        {"CONNECTION_POOL_KWARGS": {"retry": object()}},
        {"CONNECTION_POOL_KWARGS": {"retry_on_error": [OSError]}},
        {"location": "redis://h/0?retry_on_timeout=yes"},
    ],
    ids=["on a time-out", "a policy", "on an error", "in the URL"],
)
def test_retries_are_warned_of(settings: Any, options: Any) -> None:
    settings.CACHES = redis(**options)
    assert "W010" in found()


# Database


@pytest.fixture
def database() -> Iterator[Callable[..., None]]:
    """Puts another configuration in the place of the default database; it cannot connect."""
    real = connections["default"]

    def configure(vendor: str, **config: Any) -> None:
        connections["default"] = SimpleNamespace(  # type: ignore[assignment] # all that is read
            alias="default", vendor=vendor, settings_dict={"OPTIONS": {}} | config
        )

    yield configure
    connections["default"] = real


@pytest.mark.parametrize("vendor", ["postgresql", "mysql", "sqlite"])
def test_a_clean_database(database: Callable[..., None], vendor: str) -> None:
    database(vendor, AUTOCOMMIT=True)
    assert found() == set()


def test_sqlite_is_for_development(database: Callable[..., None]) -> None:
    database("sqlite")
    assert "W011" in found(include_deployment_checks=True)
    database("postgresql")
    assert "W011" not in found(include_deployment_checks=True)


def test_a_vendor_without_a_ledger(database: Callable[..., None]) -> None:
    database("oracle")
    assert "E019" in found()


def test_autocommit_must_be_on(database: Callable[..., None]) -> None:
    database("postgresql", AUTOCOMMIT=False)
    assert "E020" in found()


@pytest.mark.parametrize(
    ("vendor", "options", "wrong"),
    [
        ("postgresql", {"isolation_level": 2}, False),
        ("postgresql", {"isolation_level": 3}, True),
        ("postgresql", {"isolation_level": "garbage"}, True),
        ("postgresql", {"isolation_level": None}, True),
        ("postgresql", {"options": "-c default_transaction_isolation=serializable"}, True),
        ("postgresql", {"options": r"-c default_transaction_isolation=read\ committed"}, False),
        (
            "postgresql",
            {"options": "-c default_transaction_isolation=serializable", "isolation_level": 2},
            False,
        ),
        ("postgresql", 5, False),
        ("mysql", {}, False),
        ("mysql", {"isolation_level": "READ COMMITTED"}, False),
        ("mysql", {"isolation_level": "repeatable read"}, True),
        ("mysql", {"isolation_level": None}, True),
        ("sqlite", {"isolation_level": "whatever"}, False),
    ],
)
def test_the_isolation_level_must_be_read_committed(
    database: Callable[..., None], vendor: str, options: Any, wrong: bool
) -> None:
    database(vendor, OPTIONS=options)
    assert ("E021" in found()) is wrong


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("-c synchronous_commit=off", True),
        ("-c statement_timeout=5 -csynchronous_commit=off -c work_mem=4MB", True),
        ("--synchronous_commit=OFF", True),
        ("-c synchronous_commit=local", False),
        ("-c application_name=synchronous_commit", False),
    ],
)
def test_commits_must_be_durable(database: Callable[..., None], options: str, wrong: bool) -> None:
    database("postgresql", OPTIONS={"options": options})
    assert ("E022" in found()) is wrong


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("SET synchronous_commit = off", "E022"),
        ("SET default_transaction_isolation = 'repeatable read'", "E021"),
    ],
)
def test_the_server_is_asked(statement: str, number: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
    assert number not in found()
    assert check_server(databases=["other"]) == []
    assert found(databases=["default"]) == {number}
    connection.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("mysql")
@pytest.mark.parametrize(("limit", "warned"), [(0, True), (60, False)])
def test_mariadb_must_end_idle_transactions(limit: int, warned: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION idle_transaction_timeout = {limit}")
    assert "W012" not in found()
    assert ("W012" in found(databases=["default"])) is warned
    connection.close()


def test_a_server_out_of_reach_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OperationalError

    monkeypatch.setattr(connection, "cursor", refuse)
    assert check_server(databases=["default"]) == []


def test_a_broken_router_never_crashes_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(using: str | None) -> str:
        raise RuntimeError

    monkeypatch.setattr(ledger, "alias", broken)
    assert found() == set()


def test_the_alias_of_a_policy_is_looked_at(settings: Any, database: Callable[..., None]) -> None:
    class Elsewhere(Guarded):
        idempotency_policy = Policy(using="default")

    settings.DATABASE_ROUTERS = [f"{__name__}.Nowhere"]
    database("postgresql", AUTOCOMMIT=False)
    assert "E020" not in found()
    settings.ROOT_URLCONF = routed(Elsewhere)
    assert "E020" in found()


# Poolers, pools, tenants and other databases


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({"PORT": "6432"}, "server-side cursors"),
        ({"PORT": 6432, "DISABLE_SERVER_SIDE_CURSORS": True}, ""),
        (
            {
                "PORT": 6432,
                "DISABLE_SERVER_SIDE_CURSORS": True,
                "OPTIONS": {"prepare_threshold": 5},
            },
            "prepared statements",
        ),
        ({"PORT": "5432", "OPTIONS": {"prepare_threshold": 5}}, ""),
        ({"PORT": None, "OPTIONS": 5}, ""),
    ],
)
def test_a_transaction_pooler_keeps_no_sessions(
    settings: Any, database: Callable[..., None], config: Any, warned: str
) -> None:
    settings.ROOT_URLCONF = routed(Guarded)
    database("postgresql", **config)
    assert ("W021" in found()) is bool(warned)
    assert not warned or warned in message("W021")
    database("mysql", **config)
    assert "W021" not in found()


@pytest.mark.parametrize(
    ("pool", "warned"),
    [
        ({"max_size": 1}, True),
        ({"min_size": 1}, True),
        ({"min_size": 1, "max_size": 2}, False),
        ({"max_size": "garbage"}, False),
        ({}, False),
        (True, False),
        (None, False),
    ],
)
def test_a_lease_needs_a_second_connection(
    settings: Any, database: Callable[..., None], pool: Any, warned: bool
) -> None:
    settings.ROOT_URLCONF = routed(Leased)
    database("postgresql", OPTIONS={"pool": pool})
    assert ("W022" in found()) is warned
    settings.ROOT_URLCONF = routed(Guarded)
    assert "W022" not in found()


@pytest.mark.parametrize("engine", ["django_tenants.postgresql_backend", "tenant_schemas.x"])
def test_tenants_must_not_meet(settings: Any, database: Callable[..., None], engine: str) -> None:
    settings.ROOT_URLCONF = routed(Guarded)
    database("postgresql", ENGINE=engine)
    assert "all tenants share its tables" in message("W020")
    # In tables of their own they still meet in the cache.
    settings.TENANT_APPS = ["idempotency"]
    assert "the cache has no KEY_FUNCTION" in message("W020")
    settings.CACHES = {"default": REDIS | {"KEY_FUNCTION": "django_tenants.cache.make_key"}}
    assert "W020" not in found()
    settings.TENANT_APPS = []
    assert "W020" in found()
    settings.ROOT_URLCONF = routed(NamesItsCaller)
    assert "W020" not in found()


def test_without_tenants_callers_need_not_name_any(settings: Any) -> None:
    settings.ROOT_URLCONF = routed(Guarded)
    assert found() == set()


def test_another_database_commits_on_its_own(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings, "other", {"ATOMIC_REQUESTS": True})
    assert "W024" not in found()
    settings.ROOT_URLCONF = routed(Guarded)
    assert f"{__name__}.Guarded" in message("W024")
    monkeypatch.setitem(connections.settings, "other", {"ATOMIC_REQUESTS": False})
    assert "W024" not in found()
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    assert "W024" not in found()


# Views


class Guarded(IdempotencyMixin, APIView):
    permission_classes = [IsAuthenticated]

    def post(self, request: Any) -> None: ...


class Open(Guarded):
    permission_classes = [AllowAny]


class OpenToUuids(Open):
    idempotency_policy = Policy(key_format="uuid")


class NoPermissions(Guarded):
    permission_classes = []


class NamesItsCaller(Open):
    def get_idempotency_caller(self, request: Any) -> str:
        return "tenant"


class ChoosesPermissions(Open):
    def get_permissions(self) -> Any:
        return [IsAuthenticated()]


class OpenAndUnprotected(Open):
    idempotency_actions = frozenset()


class OpenViewSet(IdempotencyMixin, viewsets.ViewSet):
    permission_classes = [AllowAny]

    def create(self, request: Any) -> None: ...


@pytest.mark.parametrize(
    ("view", "warned"),
    [
        (Guarded, False),
        (Open, True),
        (OpenToUuids, False),
        (NoPermissions, True),
        (NamesItsCaller, False),
        (ChoosesPermissions, False),
        (OpenAndUnprotected, False),
    ],
)
def test_strangers_must_not_guess_keys(settings: Any, view: Any, warned: bool) -> None:
    settings.ROOT_URLCONF = routed(view)
    assert ("W013" in found()) is warned
    settings.IDEMPOTENCY_KEY_FORMAT = "ulid"
    assert "W013" not in found()


def test_views_are_found_behind_includes_routers_and_arguments(settings: Any) -> None:
    router = SimpleRouter()
    router.register("open", OpenViewSet, basename="open")
    settings.ROOT_URLCONF = urls(path("api/", include([path("v1/", include(router.urls))])))
    assert f"{__name__}.OpenViewSet" in message("W013")
    opened = Guarded.as_view(permission_classes=[AllowAny])
    settings.ROOT_URLCONF = urls(path("", opened))
    assert "W013" in found()
    asked = Open.as_view(idempotency_policy=Policy(key_format="uuid"))
    settings.ROOT_URLCONF = urls(path("", asked))
    assert "W013" not in found()


def test_two_classes_must_not_share_an_operation(settings: Any) -> None:
    class Named(Guarded):
        idempotency_operation = "orders"

    class Inheriting(Named):
        pass

    settings.ROOT_URLCONF = routed(Named, Named, Guarded)
    assert "E023" not in found()
    settings.ROOT_URLCONF = routed(Named, Inheriting)
    assert "E023" in found()


def test_equal_class_names_of_two_modules_share_an_operation(settings: Any) -> None:
    namesake = type("Guarded", (Guarded,), {"__module__": "tests.elsewhere"})
    settings.ROOT_URLCONF = routed(Guarded, namesake)
    assert "tests.Guarded.post" in message("E023")


def test_a_plain_view_shares_its_operation_with_nobody(settings: Any) -> None:
    protect = idempotent_view(operation="named")
    one = protect(lambda request: HttpResponse())

    def other(request: Any) -> HttpResponse:
        return HttpResponse()

    settings.ROOT_URLCONF = urls(path("one/", one), path("again/", one))
    assert found() == set()
    settings.ROOT_URLCONF = urls(path("one/", one), path("other/", protect(other)))
    assert "other" in message("E023")


@pytest.mark.parametrize("urlconf", [None, "", "no.such.urls", f"{__name__}.Broken"])
def test_url_patterns_that_cannot_be_loaded_never_crash_a_check(
    settings: Any, urlconf: Any
) -> None:
    settings.ROOT_URLCONF = urlconf
    found()


def test_other_views_are_no_matter(settings: Any) -> None:
    settings.ROOT_URLCONF = urls(
        path("plain/", lambda request: HttpResponse()), path("drf/", APIView.as_view())
    )
    assert found() == set()


# Leases and jobs


class Leased(Guarded):
    idempotency_policy = Policy(execution="leased")


class StartsJobs(Guarded):
    idempotency_policy = Policy(execution="job")


def job_project(*more: Any) -> Any:
    """A URL configuration with a view that starts jobs, and whatever else it has."""
    return urls(path("jobs/", StartsJobs.as_view()), *more)


WITH_DOCUMENTS = path("idempotency/", include("idempotency.urls"))


@pytest.fixture
def no_celery_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has imported none; other tests of this one have left theirs."""
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state._tls, "current_app", None)


@pytest.mark.vendors("postgresql", "mysql")
def test_a_project_with_jobs_that_has_all_they_need_hears_nothing(
    settings: Any, messages: Messages
) -> None:
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS, path("leased/", Leased.as_view()))
    assert found() == set()


@pytest.mark.parametrize("view", [Leased, StartsJobs])
def test_sqlite_keeps_no_leases(
    settings: Any, database: Callable[..., None], messages: Messages, view: Any
) -> None:
    settings.ROOT_URLCONF = urls(path("", view.as_view()), WITH_DOCUMENTS)
    database("sqlite")
    assert found() == {"E025"}
    assert f"{__name__}.{view.__name__}" in message("E025")
    database("mysql")
    assert found() == set()


def test_atomic_executions_may_be_on_sqlite(settings: Any, database: Callable[..., None]) -> None:
    settings.ROOT_URLCONF = routed(Guarded)
    database("sqlite")
    assert found() == set()


def test_the_database_of_the_policy_counts_for_leases(
    settings: Any, database: Callable[..., None]
) -> None:
    class Elsewhere(Guarded):
        idempotency_policy = Policy(execution="leased", using="default")

    database("sqlite")
    settings.DATABASE_ROUTERS = [f"{__name__}.Nowhere"]
    settings.ROOT_URLCONF = routed(Leased)
    assert "E025" not in found()
    settings.ROOT_URLCONF = routed(Elsewhere)
    assert "E025" in found()


def test_jobs_want_celery(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery", None)
    settings.ROOT_URLCONF = urls(path("", Leased.as_view()))
    assert "E026" not in found(include_deployment_checks=True)
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    assert found(include_deployment_checks=True) == {"E026"}
    assert f"{__name__}.StartsJobs" in message("E026")


def test_jobs_want_their_documents_served(settings: Any, messages: Messages) -> None:
    settings.ROOT_URLCONF = job_project()
    assert "W014" in found()
    settings.ROOT_URLCONF = job_project(path("deep/", include([WITH_DOCUMENTS])))
    assert "W014" not in found()


def test_jobs_are_not_for_eager_tasks(settings: Any, messages: Messages) -> None:
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    messages.app.conf.task_always_eager = True
    assert found() == {"W015"}
    settings.DEBUG = True
    assert found() == set()


def test_eager_tasks_are_found_by_djangos_setting(
    settings: Any, no_celery_application: None
) -> None:
    settings.CELERY_TASK_ALWAYS_EAGER = True
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    app = Celery("project")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    assert found() == {"W015"}


def test_jobs_want_a_celery_application(settings: Any, no_celery_application: None) -> None:
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    assert found(include_deployment_checks=True) == {"W016"}
    Celery("project")
    assert found() == set()


def test_celerys_own_application_will_do_where_it_is_configured(
    settings: Any,
    no_celery_application: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    Path(tmp_path, "celeryconfig_of_a_test.py").write_text("broker_url = 'memory://'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "celeryconfig_of_a_test")
    assert found() == set()


def test_a_broken_celery_application_never_crashes_a_check(
    settings: Any, no_celery_application: None
) -> None:
    settings.ROOT_URLCONF = job_project(WITH_DOCUMENTS)
    Celery("project").config_from_object("no.such.module")
    assert found(include_deployment_checks=True) == set()


SWEPT = {
    "beat_schedule": {
        "sweep": {"task": "idempotency.recover", "schedule": 30.0},
        "purge": {"task": "idempotency.purge", "schedule": 3600.0},
    }
}
ONLY_SWEPT = {"beat_schedule": {"sweep": SWEPT["beat_schedule"]["sweep"]}}


@pytest.mark.parametrize(
    ("conf", "packages", "ids"),
    [
        pytest.param(SWEPT, None, set(), id="as every project does it"),
        pytest.param(SWEPT, ["tests.app"], {"W017"}, id="other packages only"),
        pytest.param(SWEPT | {"include": ["idempotency.tasks"]}, [], set(), id="included"),
        pytest.param({}, None, {"W018", "W025"}, id="no schedule"),
        pytest.param(
            {"beat_schedule": {"other": {"task": "other"}}}, None, {"W018", "W025"}, id="no sweep"
        ),
        pytest.param(ONLY_SWEPT, None, {"W025"}, id="no purge"),
        pytest.param(
            {"beat_scheduler": "project.Scheduler"}, None, set(), id="scheduled elsewhere"
        ),
        pytest.param({"include": ["no.such.module"]}, None, set(), id="workers do not start"),
    ],
)
def test_workers_must_know_jobs_and_somebody_must_sweep(
    conf: dict[str, Any], packages: list[str] | None, ids: set[str]
) -> None:
    """In a process of its own, since this one has loaded what a worker may not."""
    program = f"""
from celery import Celery
from django.core.management import execute_from_command_line
app = Celery("project", broker="memory://")
app.conf.update({conf!r})
if {packages!r} != []:
    app.autodiscover_tasks({packages!r})
execute_from_command_line(["manage.py", "check", "--deploy", "--tag", "idempotency"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.served.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(re.findall(r"idempotency\.(W01[4-9]|W025)", done.stderr)) == ids


# What the settings above name


class Nowhere:
    """A router to a database that is not there."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "nowhere"


def __getattr__(name: str) -> Any:
    """Classes that tests name by path; `Broken` raises as it is looked up."""
    if name == "OwnRedis":
        from django_redis.cache import RedisCache  # noqa: PLC0415 - beside its use

        return type(name, (RedisCache,), {})
    if name == "OwnFiles":
        from django.core.cache.backends.filebased import FileBasedCache  # noqa: PLC0415 - the same

        return type(name, (FileBasedCache,), {})
    if name == "Broken":
        raise RuntimeError("broken")
    raise AttributeError(name)
