"""The billing service."""

from settings import base
from settings.base import *  # noqa: F403 - a settings module is its names

DATABASES = base.database("billing")
CACHES = base.caches()
ROOT_URLCONF = "enrollment_demo.billing.urls"
INSTALLED_APPS = [*base.INSTALLED_APPS, "enrollment_demo.billing"]
