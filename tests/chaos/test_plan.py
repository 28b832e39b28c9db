"""A campaign can be run again: the same seed gives the same plan, and the same ledger."""

import pytest
from django.http import HttpResponse

from chaos.plan import FAULTS, plan
from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.protocol.conftest import ask  # noqa: F401 - a fixture


def test_seed_and_length_say_it_all() -> None:
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)


def test_every_fault_has_its_turn() -> None:
    assert {fault.kind for fault in plan(7, 40).faults} == set(FAULTS)


def test_a_key_stands_for_one_errand_of_a_caller_and_callers_share_keys() -> None:
    errands = plan(7, 60).errands
    names = [(errand.service, errand.caller, errand.key) for errand in errands]
    assert len(set(names)) == len(names)
    assert len({errand.key for errand in errands}) < len(errands)


@pytest.mark.django_db(transaction=True)
@pytest.mark.vendors("postgresql", "mysql", "sqlite")
def test_the_same_requests_give_the_same_ledger(ask, redis_db):  # noqa: F811 - the fixture
    """One after the other, twice: nothing in a record hangs on anything but the requests."""

    def ledger():
        Booking.objects.all().delete()
        IdempotencyRecord.objects.all().delete()
        redis_db.flushdb()
        for errand in plan(7, 10).errands:
            for _ in errand.sent_at:
                ask(
                    lambda name=errand.key: HttpResponse(
                        Booking.objects.create(name=name).name, status=201
                    ),
                    key=errand.key,
                    caller=errand.caller,
                    body={"name": errand.key},
                )
        told = ("scope", "key", "state", "status", "headers", "body", "fingerprint", "attempt")
        rows = IdempotencyRecord.objects.order_by("scope", "key").values_list(*told)
        return [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in rows]

    first = ledger()
    assert len(first) > 40
    assert ledger() == first
