"""gunicorn's configuration in the demo: one process with threads, gone when its starter is gone."""

import os
import select
import signal
import sys
import threading
from typing import Any

workers = 1
worker_class = "gthread"
threads = 16
# Retries in a storm close their connections; an idle one would only hold a thread's place.
keepalive = 1
graceful_timeout = 10
control_socket_disable = True

#: Seconds between two looks at the starter.
_LOOK_EVERY = 0.5


def on_starting(server: Any) -> None:
    """Watches the starter from the master process; the worker follows its master."""
    starter = os.getppid()

    def watch() -> None:
        # Nobody writes to our stdin: readable means closed. The parent's id is for a starter
        # whose other children still hold the pipe.
        while not select.select([sys.stdin], [], [], _LOOK_EVERY)[0] and os.getppid() == starter:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
