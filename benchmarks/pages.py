"""The admin's pages over the ledger as it is, and over thirty days of counters."""

import time
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from benchmarks import calls, planting
from benchmarks.measure import quantile

#: Loads of each page that count, after some that warm up.
LOADS, WARM_UP = 20, 3
#: What the pages need around them, as a new project has it.
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

_LIST = "/admin/idempotency/idempotencyrecord/"
PAGES = {
    "dashboard, 24 hours": f"{_LIST}dashboard/?range=24h",
    "dashboard, 7 days": f"{_LIST}dashboard/?range=7d",
    "dashboard, 30 days": f"{_LIST}dashboard/?range=30d",
    "list of records": _LIST,
    "list, outcome unknown": f"{_LIST}?stage=unknown",
    "list, replayable": f"{_LIST}?stage=replayable",
    "list, by scope": f"{_LIST}?q=user:1",
}


@dataclass(frozen=True)
class Page:
    """One page, loaded again and again."""

    name: str
    #: Of one load, what tells who asks included.
    statements: int
    #: Milliseconds.
    p50: float
    p95: float


@dataclass(frozen=True)
class Pages:
    """All of them, and how much they look at."""

    records: int
    counters: int
    pages: list[Page]


def measure(records: int) -> Pages:
    """Load the pages over the ledger, which has so many records."""
    counters = planting.plant_counters()
    user, _ = User.objects.get_or_create(username="viewer", is_staff=True, is_superuser=True)
    with calls.settings_as(MIDDLEWARE=MIDDLEWARE):
        client = Client()
        client.force_login(user)
        pages = [_load(client, name, url) for name, url in PAGES.items()]
    planting.empty_counters()
    return Pages(records, counters, pages)


def _load(client: Client, name: str, url: str) -> Page:
    times = []
    for number in range(WARM_UP + LOADS):
        started = time.monotonic()
        response = client.get(url)
        took = (time.monotonic() - started) * 1e3
        if response.status_code != 200:
            raise AssertionError(f"{url} answers {response.status_code}")
        if number >= WARM_UP:
            times.append(took)
    with CaptureQueriesContext(connection) as captured:
        client.get(url)
    return Page(name, len(captured), quantile(times, 0.5), quantile(times, 0.95))
