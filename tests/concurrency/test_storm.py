"""Crowds of retries over several server processes."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from django.db import connection
from django.db.models import Count

from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.served import gunicorn

pytestmark = pytest.mark.django_db(transaction=True)

KEYS, RETRIES = 50, 20
#: By a crowd on one key; by SQLite, where every write waits for every other, on any.
TOLD_TO_COME_AGAIN = {
    "postgresql": {"idempotency_in_progress"},
    "mysql": {"idempotency_in_progress"},
    "sqlite": {"idempotency_in_progress", "idempotency_unavailable"},
}


def post(origin, key):
    return requests.post(
        f"{origin}/bookings/",
        json={"name": key, "seconds": 0.05},
        headers={"Idempotency-Key": key},
        timeout=30,
    )


@pytest.mark.parametrize("cache", ["with Redis", "without Redis"])
def test_a_storm_of_retries_runs_each_key_once(tmp_path, redis_db, cache, closed_port):
    """20 at once for each of 50 keys over 4 processes: one row a key, identical 201s, else "come
    again"."""
    environment = {}
    if cache == "without Redis":
        environment["REDIS_URL"] = f"redis://127.0.0.1:{closed_port}/0"
    replies = defaultdict(list)
    log = tmp_path / "gunicorn.log"
    with gunicorn(log, environment=environment) as origin, ThreadPoolExecutor(40) as crowd:
        sent = [
            (key, crowd.submit(post, origin, key))
            for pair in range(0, KEYS, 2)
            for _ in range(RETRIES)
            for key in (f"key-{pair}", f"key-{pair + 1}")
        ]
        for key, reply in sent:
            replies[key].append(reply.result())

    per_name = Booking.objects.values_list("name").annotate(rows=Count("pk"))
    assert dict(per_name) == dict.fromkeys(replies, 1)
    assert IdempotencyRecord.objects.count() == KEYS
    for key, answers in replies.items():
        done = [answer for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert len({answer.content for answer in done}) == 1, key
        assert sum("Idempotent-Replayed" not in answer.headers for answer in done) == 1, key
        for answer in refused:
            assert answer.json()["code"] in TOLD_TO_COME_AGAIN[connection.vendor], answer.text
            assert int(answer.headers["Retry-After"]) >= 1
