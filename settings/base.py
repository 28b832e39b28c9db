"""What the three services share. Each adds its app, its URLs and nothing else."""

import os
from pathlib import Path
from typing import Any

import dj_database_url

BASE_DIR = Path(__file__).resolve().parent.parent


def database(service: str) -> dict[str, dict[str, Any]]:
    """The service's own database; without DATABASE_URL a file beside manage.py."""
    parsed: dict[str, Any] = dict(
        dj_database_url.config(
            default=f"sqlite:///{BASE_DIR / service}.sqlite3",
            conn_max_age=60,
            conn_health_checks=True,
        )
    )
    # Most projects have it; the mixin replaces it by its own transaction on protected actions.
    return {"default": parsed | {"ATOMIC_REQUESTS": True}}


def caches() -> dict[str, dict[str, Any]]:
    """The service's own Redis database; without REDIS_URL the process's own memory."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        return {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    return {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": url,
            # A Redis that hangs costs a request half a second, not the worker.
            "OPTIONS": {"SOCKET_TIMEOUT": 0.5, "SOCKET_CONNECT_TIMEOUT": 0.5},
        }
    }


SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "insecure-key-of-the-sample")
DEBUG = False
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "rest_framework",
    "rest_framework.authtoken",
    "idempotency",
    "enrollment_demo.demo",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
WSGI_APPLICATION = "enrollment_demo.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "enrollment_demo.authentication.ServiceOrUserAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "enrollment_demo.pages.Pages",
    "EXCEPTION_HANDLER": "enrollment_demo.errors.exception_handler",
}

#: What the services show each other; empty accepts none.
SERVICE_TOKEN = os.environ.get("SERVICE_TOKEN", "")
IDEMPOTENCY_PREFIX = os.environ.get("IDEMPOTENCY_PREFIX", "idempotency")
#: The demo's first half: no action is protected.
DEMO_BYPASS_IDEMPOTENCY = os.environ.get("DEMO_BYPASS_IDEMPOTENCY", "") == "1"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
