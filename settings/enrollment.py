"""The enrollment service: the one that users call, and the one with an admin site."""

import os

from settings import base
from settings.base import *  # noqa: F403 - a settings module is its names

DATABASES = base.database("enrollment")
CACHES = base.caches()
ROOT_URLCONF = "enrollment_demo.enrollment.urls"

INSTALLED_APPS = [
    *base.INSTALLED_APPS,
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "enrollment_demo.enrollment",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    *base.MIDDLEWARE,
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
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
STATIC_URL = "/static/"

BILLING_URL = os.environ.get("BILLING_URL", "http://127.0.0.1:8001")
ROSTER_URL = os.environ.get("ROSTER_URL", "http://127.0.0.1:8002")
