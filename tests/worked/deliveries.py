"""Tasks that nothing protects: what the broker does shows in their rows."""

import time
from datetime import UTC, datetime

from celery import shared_task

from tests.app.models import Booking
from tests.worked.gates import stop_at


@shared_task(acks_late=True, reject_on_worker_lost=True)
def deliver(name: str) -> None:
    """One booking for each delivery of its message."""
    Booking.objects.create(name=name)
    stop_at("delivered")


@shared_task
def tell_time() -> None:
    """Two bookings whose seats are this host's seconds, by `time` and by `datetime`."""
    Booking.objects.create(name="time", seats=int(time.time()))
    Booking.objects.create(name="datetime", seats=int(datetime.now(UTC).timestamp()))
