"""Which fields of a JSON line hold what: nginx, gunicorn and their likes name them differently."""

from collections.abc import Iterable
from typing import Final, NamedTuple

#: The names for each role, in lower case with underscores; the first that a line has is taken.
_TIME: Final = (
    "msec",  # to the millisecond, where time_local beside it is to the second
    "time_iso8601",
    "@timestamp",
    "timestamp",
    "time_local",
    "time",
    "datetime",
    "asctime",
    "date",
    "ts",
)
_ADDRESS: Final = (
    "client_ip",
    "clientip",
    "remote_addr",
    "remote_ip",
    "remote_address",
    "client_addr",
    "client_address",
    "ip",
    "remote_host",
    "client",
)
_FORWARDED: Final = ("http_x_forwarded_for", "x_forwarded_for", "forwarded_for", "xff")
_AGENT: Final = ("http_user_agent", "user_agent", "useragent", "agent", "ua")
_METHOD: Final = ("request_method", "method", "http_method", "verb")
_REQUEST: Final = ("request", "request_line")
_PATH: Final = ("request_uri", "uri", "path", "request_path", "url", "raw_path", "target")
_QUERY: Final = ("args", "query_string", "query", "request_query")
_SIZE: Final = (
    "request_length",
    "request_size",
    "request_bytes",
    "bytes_received",
    "http_content_length",
    "content_length",
)
_STATUS: Final = ("status", "status_code", "response_status", "http_status", "response_code")
_ANSWER: Final = (
    "body_bytes_sent",
    "bytes_sent",
    "bytes",
    "response_length",
    "response_size",
    "response_bytes",
    "size",
)


class Layout(NamedTuple):
    """The fields of one kind of line, by what they hold; None where it has no such field."""

    time: str
    address: str | None
    forwarded: str | None
    agent: str | None
    method: str | None
    #: The request line, `POST /orders/ HTTP/1.1`, where method and path have no fields.
    request: str | None
    path: str | None
    query: str | None
    size: str | None
    status: str
    answer: str | None


def layout(names: Iterable[str]) -> Layout:
    """The layout of lines with these fields. LookupError where they cannot be a request's."""
    known = {name.lower().replace("-", "_"): name for name in names}

    def first(candidates: Iterable[str]) -> str | None:
        return next((known[name] for name in candidates if name in known), None)

    time, status = first(_TIME), first(_STATUS)
    if time is None:
        raise LookupError("a time")
    if status is None:
        raise LookupError("a status")
    found = Layout(
        time=time,
        address=first(_ADDRESS),
        forwarded=first(_FORWARDED),
        agent=first(_AGENT),
        method=first(_METHOD),
        request=first(_REQUEST),
        path=first(_PATH),
        query=first(_QUERY),
        size=first(_SIZE),
        status=status,
        answer=first(_ANSWER),
    )
    if found.request is None and (found.method is None or found.path is None):
        raise LookupError("a method or a path")
    return found
