"""The settings of a worker with a beat, as a project that recovers its jobs has them."""

from tests.served.settings import *  # noqa: F403 - a variant of them

CELERY_BEAT_SCHEDULE = {"recover": {"task": "idempotency.recover", "schedule": 0.5}}
