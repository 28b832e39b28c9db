"""The settings of a worker with a beat, as a project that recovers and purges has them."""

from tests.served.settings import *  # noqa: F403 - a variant of them

CELERY_BEAT_SCHEDULE = {
    "recover": {"task": "idempotency.recover", "schedule": 0.5},
    "purge": {"task": "idempotency.purge", "schedule": 0.5},
}
