"""gunicorn's configuration in the demo: one process with threads, gone when its starter is gone."""

from typing import Any

from enrollment_demo.demo.owner import end_with_starter

workers = 1
worker_class = "gthread"
threads = 16
# Retries in a storm close their connections; an idle one would only hold a thread's place.
keepalive = 1
graceful_timeout = 10
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Watches the starter from the master process; the worker follows its master."""
    end_with_starter()
