"""For mypy and the migration check: every app of the repository at once, and no server."""

from settings import enrollment
from settings.enrollment import *  # noqa: F403 - a settings module is its names

INSTALLED_APPS = [
    *enrollment.INSTALLED_APPS,
    "enrollment_demo.billing",
    "enrollment_demo.roster",
    "chaos",
    "tests.app",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
