"""For the benchmarks: `benchmarks.backing` says which database and which Redis."""

import os
from importlib.util import find_spec

import dj_database_url

SECRET_KEY = "key-of-the-benchmarks"
DEBUG = False
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]
ROOT_URLCONF = "benchmarks.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIDDLEWARE: list[str] = []
# The cost of a log line is the project's choice, not ours.
LOGGING_CONFIG = None

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    # For the pages of the admin only; no request of the others passes by.
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "rest_framework",
    "idempotency",
    "benchmarks",
]
if os.environ.get("BENCHMARK_PEERS"):
    INSTALLED_APPS += [app for app in ("drf_idempotency", "drf_idempotencykey") if find_spec(app)]

STATIC_URL = "/static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": dj_database_url.parse(
        os.environ.get("DATABASE_URL", "sqlite://:memory:"), conn_max_age=None
    )
}

# A ledger of few records, beside the one that may have many.
if os.environ.get("SMALL_DATABASE_URL"):
    DATABASES["small"] = dj_database_url.parse(os.environ["SMALL_DATABASE_URL"], conn_max_age=None)

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
_TIMEOUTS = {"SOCKET_TIMEOUT": 0.5, "SOCKET_CONNECT_TIMEOUT": 0.5}
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": _TIMEOUTS,
    },
    # Nothing listens there: what a stopped Redis looks like, while the others need theirs.
    "stopped": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": "redis://127.0.0.1:1/0",
        "OPTIONS": _TIMEOUTS,
    },
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["benchmarks.authentication.KnownUser"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}

# django-idempotency-key: its memory storage and thread lock serve one process only.
IDEMPOTENCY_KEY = {
    "CONFLICT_STATUS_CODE": None,
    "STORAGE": {"CLASS": "idempotency_key.storage.CacheKeyStorage", "CACHE_NAME": "default"},
    "LOCK": {
        "CLASS": "idempotency_key.locks.redis.MultiProcessRedisLock",
        "LOCATION": REDIS_URL,
        "TTL": 60,
    },
}
# drf-idempotency, as in its quick start.
IDEMPOTENCY = {"BACKEND": "drf_idempotency.backends.database.DatabaseBackend"}
