"""Lines as servers log them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from idempotency.audit.lines import Request

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def combined(
    after: float = 0,
    *,
    address: str = "192.0.2.7",
    agent: str = "app/1.0",
    method: str = "POST",
    path: str = "/orders/",
    status: int | str = 201,
    answer: int | str = 120,
) -> str:
    """A line of the combined format, so many seconds after `START`."""
    at = START + timedelta(seconds=after)
    when = f"{at.day:02}/{MONTHS[at.month - 1]}/{at.year}:{at:%H:%M:%S} +0000"
    return f'{address} - - [{when}] "{method} {path} HTTP/1.1" {status} {answer} "-" "{agent}"'


def as_json(after: float = 0, /, *, without: tuple[str, ...] = (), **fields: Any) -> str:
    """A line as nginx writes it with `escape=json`."""
    line = {
        "time_iso8601": (START + timedelta(seconds=after)).isoformat(),
        "remote_addr": "192.0.2.7",
        "http_user_agent": "app/1.0",
        "request_method": "POST",
        "request_uri": "/orders/",
        "request_length": 412,
        "status": 201,
        "body_bytes_sent": 120,
    } | fields
    return json.dumps({name: value for name, value in line.items() if name not in without})


def request(after: float = 0, **values: Any) -> Request:
    """The request of both lines above, its size unknown."""
    known: dict[str, Any] = {
        "address": "192.0.2.7",
        "agent": "app/1.0",
        "method": "POST",
        "path": "/orders/",
        "size": None,
        "status": 201,
        "answer": 120,
    }
    return Request(time=START.timestamp() + after, **known | values)
