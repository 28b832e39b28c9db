"""The test settings with the served views.

LOCK_TIMEOUT gives IDEMPOTENCY_LOCK_TIMEOUT, in seconds.
"""

import os

from settings.test import *  # noqa: F403 - a variant of them
from settings.test import DATABASES

ROOT_URLCONF = "tests.served.urls"
DATABASES["default"]["CONN_MAX_AGE"] = 60
IDEMPOTENCY_LOCK_TIMEOUT = float(os.environ.get("LOCK_TIMEOUT", "60"))
