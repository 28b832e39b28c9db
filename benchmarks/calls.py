"""One request in process, through Django's own WSGI handler: the same path for all."""

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from django.test.signals import setting_changed


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, and when."""

    status: int
    headers: dict[str, str]
    body: bytes
    started: float
    ended: float
    #: Seconds of our processor time, all threads, until the response was closed: what a busy
    #: machine disturbs least.
    processor: float

    @property
    def microseconds(self) -> float:
        return (self.ended - self.started) * 1e6


def environ(path: str, key: str, student: str) -> dict[str, Any]:
    """A keyed create of one student, as a WSGI server would hand it over."""
    body = json.dumps({"student": student, "course": "CS101"}).encode()
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/{path}/",
        "QUERY_STRING": "",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "testserver",
        "HTTP_AUTHORIZATION": "Bearer benchmark",
        "HTTP_IDEMPOTENCY_KEY": key,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


@lru_cache(maxsize=16)
def handler(middleware: tuple[str, ...] = ()) -> WSGIHandler:
    """Django's application with this middleware and no other."""
    with override_settings(MIDDLEWARE=list(middleware)):
        return WSGIHandler()


def send(application: WSGIHandler, request: dict[str, Any]) -> Reply:
    """The reply to one request. The client has it with its last byte; what a server does as it
    closes the response counts as processor time only."""
    answer: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        answer.append((status, headers))

    processor = time.process_time()
    started = time.monotonic()
    response = application(request, start_response)
    body = b"".join(response)
    ended = time.monotonic()
    response.close()
    processor = time.process_time() - processor
    status, headers = answer[0]
    return Reply(int(status[:3]), dict(headers), body, started, ended, processor)


@contextmanager
def settings_as(**values: Any) -> Iterator[None]:
    """Other settings for a while, without the wrapper of override_settings, which costs time."""
    before = {name: getattr(settings, name, _UNSET) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


#: Stands for a setting that nobody has made.
_UNSET = object()


def _set(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is _UNSET:
            delattr(settings, name)
        else:
            setattr(settings, name, value)
        # Whoever keeps settings listens to this, as in tests.
        known = None if value is _UNSET else value
        setting_changed.send(sender=settings_as, setting=name, value=known, enter=True)
