"""The service's Celery application; it ends with its starter."""

from typing import Any

from celery import Celery
from celery.signals import beat_init, worker_ready

from enrollment_demo.demo.owner import end_with_starter

app = Celery("chaos")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_ready.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def watch(**_: Any) -> None:
    """A worker or beat without its campaign would wait for its servers for ever."""
    end_with_starter()
