import os
from typing import Any

from django.apps import AppConfig

from chaos import log
from idempotency import events


class ChaosConfig(AppConfig):
    name = "chaos"

    def ready(self) -> None:
        if log.VARIABLE in os.environ:
            events.recorded.connect(_note)


def _note(event: events.Event, **_: Any) -> None:
    if event.name == events.CACHE_UNAVAILABLE:
        log.complained(event.name)
