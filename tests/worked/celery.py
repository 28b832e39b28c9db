"""The Celery application of the tests, as a Django project would write it."""

import os
import signal
import threading
import time
from pathlib import Path

from celery import Celery
from celery.signals import task_postrun, worker_init, worker_ready

from tests.worked.gates import stop_at


def make_app() -> Celery:
    """An application that reads Django's settings now, and is everybody's from now on."""
    app = Celery("tests.worked", include=["tests.worked.deliveries", "tests.worked.tasks"])
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.autodiscover_tasks()
    app.set_default()
    return app


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.served.settings")


@worker_init.connect
def end_with_the_tests(**_: object) -> None:
    """A test run that is killed cannot kill its workers, which would wait for their broker."""
    starter = os.getppid()

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@worker_ready.connect
def say_ready(**_: object) -> None:
    """The worker takes messages: `tests.worked.worker` waits for this file."""
    Path(os.environ["WORKER_READY"]).touch()


@task_postrun.connect
def before_acknowledgement(**_: object) -> None:
    """The task has ended and committed; its message is acknowledged after this."""
    stop_at("acknowledgement")


app = make_app()
