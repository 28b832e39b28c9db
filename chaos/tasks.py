"""What the service's jobs do."""

import time
from typing import Any

from celery import shared_task

from chaos import log
from chaos.models import Effect


@shared_task  # type: ignore[untyped-decorator]
def work(*, caller: str, name: str, seconds: float) -> dict[str, Any]:
    """One effect, and some time."""
    log.began("job", caller, name)
    effect = Effect.objects.create(service="job", caller=caller, name=name)
    time.sleep(seconds)
    return {"caller": caller, "name": name, "effect": effect.pk}
