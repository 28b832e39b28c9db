"""The enrollment service's Celery app as the demo runs it: gone when its starter is gone.

Whoever runs the sample by hand takes `celery -A enrollment_demo.enrollment worker`.
"""

from typing import Any

from celery.signals import beat_init, worker_ready

from enrollment_demo.demo.owner import end_with_starter
from enrollment_demo.enrollment.celery import app

__all__ = ["app"]


@worker_ready.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def watch(**_: Any) -> None:
    """From the main process; a worker's children, which follow it, are there by then."""
    end_with_starter()
