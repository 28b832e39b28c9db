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


def documented(title: str, description: str) -> dict[str, Any]:
    """How drf-spectacular presents the service; what its page loads comes from the service."""
    return {
        "TITLE": title,
        "DESCRIPTION": description,
        "VERSION": "1.0.0",
        "SERVE_INCLUDE_SCHEMA": False,
        # What is sent and what comes back are two things: only one of them may be blank.
        "COMPONENT_SPLIT_REQUEST": True,
        "ENFORCE_NON_BLANK_FIELDS": True,
        "SWAGGER_UI_DIST": "SIDECAR",
        "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
        "SWAGGER_UI_SETTINGS": {"persistAuthorization": True},
    }


SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "insecure-key-of-the-sample")
DEBUG = False
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "idempotency",
    "enrollment_demo.demo",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES: list[dict[str, Any]] = [
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
]
STATIC_URL = "/static/"
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
    "DEFAULT_SCHEMA_CLASS": "enrollment_demo.schema.ServiceSchema",
}

# Where a proxy in front speaks TLS to the callers, and tells so in X-Forwarded-Proto.
if os.environ.get("BEHIND_TLS", "") == "1":
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True

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
