"""The billing service."""

from settings import base
from settings.base import *  # noqa: F403 - a settings module is its names

DATABASES = base.database("billing")
CACHES = base.caches()
ROOT_URLCONF = "enrollment_demo.billing.urls"
SPECTACULAR_SETTINGS = base.documented(
    "Billing", "What students owe, and what they paid. Every request that moves money has a key."
)
INSTALLED_APPS = [*base.INSTALLED_APPS, "enrollment_demo.billing"]
