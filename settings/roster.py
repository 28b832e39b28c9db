"""The roster service."""

from settings import base
from settings.base import *  # noqa: F403 - a settings module is its names

DATABASES = base.database("roster")
CACHES = base.caches()
ROOT_URLCONF = "enrollment_demo.roster.urls"
SPECTACULAR_SETTINGS = base.documented("Roster", "Who sits in which course. None is overbooked.")
INSTALLED_APPS = [*base.INSTALLED_APPS, "enrollment_demo.roster"]
