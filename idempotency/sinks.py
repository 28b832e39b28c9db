"""What hangs on the one signal: the counters in the database, and each sink whose package is there.

A sink is taken off by its uid: `recorded.disconnect(dispatch_uid="idempotency.prometheus")`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Final

from idempotency import counting, events

#: The package that a sink needs, and the sink, which connects itself.
OPTIONAL: Final = {
    "prometheus_client": "idempotency.contrib.prometheus",
    "opentelemetry.trace": "idempotency.contrib.opentelemetry",
}


def connect() -> None:
    """Connect them. A second time changes nothing."""
    events.recorded.connect(counting.count, dispatch_uid="idempotency.counting")
    for package, sink in OPTIONAL.items():
        if _is_there(package):
            import_module(sink).connect()


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is part of
        return False
