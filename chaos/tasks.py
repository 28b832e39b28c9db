"""What the service's jobs do."""

from typing import Any

from celery import shared_task

from chaos import log
from chaos.effects import effect


@shared_task  # type: ignore[untyped-decorator]
def work(*, caller: str, name: str, seconds: float, variant: str) -> dict[str, Any]:
    """One effect, and some time."""
    log.began("job", caller, name)
    return effect("job", caller=caller, name=name, seconds=seconds, variant=variant)
