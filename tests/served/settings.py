"""The test settings with the served views.

LOCK_TIMEOUT gives IDEMPOTENCY_LOCK_TIMEOUT, in seconds. With POOLED_BY_TRANSACTION, DATABASE_URL is
that of a pooler, and what Django's documentation asks for behind one is set.
"""

import os

from settings.test import *  # noqa: F403 - a variant of them
from settings.test import DATABASES

ROOT_URLCONF = "tests.served.urls"
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = "POOLED_BY_TRANSACTION" in os.environ
IDEMPOTENCY_LOCK_TIMEOUT = float(os.environ.get("LOCK_TIMEOUT", "60"))
