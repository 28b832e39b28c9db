"""Sends a job's message: a hint that there is work. The job's row is what counts."""

import logging
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from celery import current_app
from kombu import pools

from idempotency import events

logger: Final = logging.getLogger("idempotency")

#: Seconds that a request waits for a broker that does not answer, after its commit; the sweep,
#: which sends the message again, has more patience.
PATIENCE: Final = 1.0

#: What keeps kombu's transports from waiting for ever, each in its library's words.
_LIMITS: Final = {
    "redis": {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE},
    "amqp": {"read_timeout": PATIENCE, "write_timeout": PATIENCE},
}


#: A connection that stood idle may be dead by now, which only shows when it is used.
_ONCE_MORE: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def publish(job_id: UUID, task: str, *, using: str) -> bool:
    """Send a job's message, to where its task's own would go, with its limits and priority.

    False where the broker does not take it: that is counted and logged, and the sweep sends it
    again.
    """
    from idempotency.tasks import run_job  # noqa: PLC0415 - it imports what sends

    known = current_app.tasks.get(task)
    options = {} if known is None else dict(known._get_exec_options())
    options.pop("expires", None)  # a message that the broker drops would only be sent again
    try:
        with _producers().acquire(block=True, timeout=PATIENCE) as producer:
            run_job.apply_async(
                args=[str(job_id), using],
                producer=producer,
                retry=True,
                retry_policy=_ONCE_MORE,
                shadow=task,
                route_name=task,
                **{**options, "ignore_result": True},
            )
    except Exception:
        events.record(events.Event(events.JOB_UNSENT, digest=str(job_id)))
        logger.warning("idempotency job %s was not sent to %s", job_id, task, exc_info=True)
        return False
    return True


def _producers() -> Any:
    """A pool of our own: Celery's tries for seconds, and waits for ever on a broker that hangs."""
    app = current_app._get_current_object()
    return pools.producers[_connection(app, app.conf.broker_write_url)]


@lru_cache(maxsize=8)  # never opened itself; made anew, it would cost as much as the message
def _connection(app: Any, url: str) -> Any:
    transport = app.connection_for_write().get_transport_cls().driver_type
    limits = {**_LIMITS.get(transport, {}), "max_retries": 0}
    return app.connection_for_write(
        connect_timeout=PATIENCE,
        transport_options={**app.conf.broker_transport_options, **limits},
    )
