"""Crowds on few keys beside requests that have nothing to do with them."""

import time

import pytest
from django.db.models import Count

from idempotency.conf import conf, seconds
from tests.aftermath import Call, violations
from tests.app.models import Booking
from tests.concurrent import PATIENCE, until
from tests.served.site import served

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("redis_db"),
]

DUPLICATES, OTHERS = 200, 20


def told(response):
    return response.status_code, response.content


def effects():
    return dict(Booking.objects.values_list("name").annotate(rows=Count("pk")))


def test_200_duplicates_on_16_threads_stop_nobody_else(tmp_path, gates):
    """While the first still runs, others are served; of the crowd a few wait, the rest may come
    back."""
    gates.close("effects")
    waiters = 2 * conf.IDEMPOTENCY_MAX_WAITERS
    with served(tmp_path, clients=1 + DUPLICATES) as site:  # two processes of eight threads
        first = site.begin("/gated/")
        gates.reached("effects")
        started = time.monotonic()
        crowd = [site.begin("/gated/") for _ in range(DUPLICATES)]
        until(lambda: sum(each.done() for each in crowd) >= DUPLICATES - waiters)
        assert time.monotonic() - started < seconds(conf.IDEMPOTENCY_WAIT_TIMEOUT)  # at once
        others, took = [], []
        for n in range(OTHERS):
            started = time.monotonic()
            others.append(site.post("/bookings/", key=f"k-{n}", name=f"other-{n}"))
            took.append(time.monotonic() - started)
        assert max(took) < 1
        assert not first.done()
        gates.open("effects")
        answers = [future.result(PATIENCE) for future in [first, *crowd]]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert {(r.status_code, r.json()["code"]) for r in refused} <= {
            (409, "idempotency_in_progress")
        }
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert len(refused) >= DUPLICATES - waiters  # none of these has kept a thread
        history = [Call("Ada", *told(answer)) for answer in [*answers, site.post("/gated/")]]
    history += [Call(f"other-{n}", *told(answer)) for n, answer in enumerate(others)]
    assert violations(history, effects()) == []
    assert {answer.status_code for answer in others} == {201}
    assert history[len(answers)].status == 201


def test_100_hot_keys(tmp_path):
    keys = [f"hot-{number}" for number in range(100)]
    with served(tmp_path) as site:
        sent = [
            (key, site.begin("/bookings/", key=key, name=key)) for _ in range(4) for key in keys
        ]
        history = [Call(key, *told(future.result(PATIENCE))) for key, future in sent]
    assert violations(history, effects()) == []
    assert effects() == dict.fromkeys(keys, 1)
    assert {call.key for call in history if call.status == 201} == set(keys)
