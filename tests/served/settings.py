"""The test settings with the served views."""

from settings.test import *  # noqa: F403 - a variant of them
from settings.test import DATABASES

ROOT_URLCONF = "tests.served.urls"
DATABASES["default"]["CONN_MAX_AGE"] = 60
