"""OpenTelemetry: what happens, on the span that is current. Switches itself on where
opentelemetry-api is installed, and costs next to nothing where no span records.

Each event of `idempotency.events` is an event of the span, `idempotency.replayed` for instance,
with these attributes. What a request or a job has come to is on the span itself, by the same names.

=========================  ========================================================================
idempotency.event          the event's name; on the span only
idempotency.operation      the operation
idempotency.detail         what answered, or why, where there is something to tell
idempotency.key_digest     stands for scope and key, which appear nowhere
=========================  ========================================================================
"""

from typing import Any, Final

from opentelemetry import trace

from idempotency.events import OUTCOMES, Event, recorded

EVENT: Final = "idempotency.event"
OPERATION: Final = "idempotency.operation"
DETAIL: Final = "idempotency.detail"
KEY_DIGEST: Final = "idempotency.key_digest"


def connect() -> None:
    """Switch it on."""
    recorded.connect(annotate, dispatch_uid="idempotency.opentelemetry")


def annotate(event: Event, **_: Any) -> None:
    """Tell the current span; a receiver of `idempotency.events.recorded`."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    told = {OPERATION: event.operation, DETAIL: event.detail, KEY_DIGEST: event.digest}
    attributes = {name: value for name, value in told.items() if value}
    span.add_event(f"idempotency.{event.name}", attributes)
    if event.name in OUTCOMES:
        span.set_attributes({EVENT: event.name} | attributes)
