"""The business under fire: one effect, which an outsider is told of."""

import time
from functools import partial
from typing import Any

from django.db import transaction

from chaos import log
from chaos.models import Effect


def effect(service: str, *, caller: str, name: str, seconds: float, variant: str) -> dict[str, Any]:
    """Create it, and work for a while; what is told of it."""
    made = Effect.objects.create(service=service, caller=caller, name=name)
    # Robust: work that stands is not told to have failed because its log is busy.
    transaction.on_commit(partial(log.committed, service, caller, name), robust=True)
    time.sleep(seconds)
    return {"caller": caller, "name": name, "effect": made.pk, "variant": variant}
