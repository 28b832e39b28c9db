"""The enrollment service's Celery app as the demo runs it: gone when its starter is gone.

Whoever runs the sample by hand takes `celery -A enrollment_demo.enrollment worker`.
"""

from typing import Any

from celery.signals import beat_init, worker_init

from enrollment_demo.demo.owner import end_with_starter
from enrollment_demo.enrollment.celery import app

__all__ = ["app"]


@worker_init.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def watch(**_: Any) -> None:
    """From the main process, before it looks for its broker: that may be gone with the starter."""
    end_with_starter()
