"""The enrollment service: the one that users call, and the one with an admin site."""

import os

from settings import base
from settings.base import *  # noqa: F403 - a settings module is its names

DATABASES = base.database("enrollment")
CACHES = base.caches()
ROOT_URLCONF = "enrollment_demo.enrollment.urls"
SPECTACULAR_SETTINGS = base.documented(
    "Enrollment", "A seat at roster and an invoice from billing, for students and whole sections."
)

INSTALLED_APPS = [
    *base.INSTALLED_APPS,
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "enrollment_demo.enrollment",
]
MIDDLEWARE = [
    *base.MIDDLEWARE,
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    base.TEMPLATES[0]
    | {
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        }
    }
]

BILLING_URL = os.environ.get("BILLING_URL", "http://127.0.0.1:8001")
ROSTER_URL = os.environ.get("ROSTER_URL", "http://127.0.0.1:8002")

#: On SQLite, where it starts without DATABASE_URL, it enrolls, and refuses only what needs a lease.
SILENCED_SYSTEM_CHECKS = ["idempotency.E025"]

#: Where section imports wait for a worker; without it, they are refused.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "")
#: The job's row is the result.
CELERY_TASK_IGNORE_RESULT = True
#: An import is long: none should wait in a busy process while another one has nothing to do.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
#: Seconds without a sign of life after which a job's worker counts as dead, and between two looks.
IDEMPOTENCY_LEASE = float(os.environ.get("IDEMPOTENCY_LEASE", "60"))
SWEEP_EVERY = float(os.environ.get("SWEEP_EVERY", "10"))
CELERY_BEAT_SCHEDULE = {
    # What waited for a worker past its time is of no use: the next one is on its way.
    "recover": {
        "task": "idempotency.recover",
        "schedule": SWEEP_EVERY,
        "options": {"expires": SWEEP_EVERY},
    },
    "purge": {"task": "idempotency.purge", "schedule": 3600.0, "options": {"expires": 3600.0}},
}
