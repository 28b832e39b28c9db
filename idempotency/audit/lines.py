"""One line of an access log as a value: combined, common or JSON, found out for each line."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from idempotency.audit.fields import Layout, layout
from idempotency.audit.moments import minute, moment

#: What a reader understands, for whoever hands it something else.
EXPECTED: Final = (
    "Expected is the combined or common format of Apache and nginx, or JSON lines with a time,"
    " remote_addr, request_method, request_uri and status, or fields of similar names."
)

#: Layouts of JSON lines that a reader keeps; a log has a few, one that makes up names has many.
_LAYOUTS: Final = 64

_QUOTED: Final = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
# In two, because most lines are of no interest, and their method is known after the first.
_HEAD: Final = re.compile(
    rb'(?:[^\s:"]+:\d{1,5} )?'  # Apache's vhost_combined
    rb"(\S+) \S+ [^\[]*"
    rb"\[(\d\d/\w{3}/\d{4}:\d\d:\d\d):(\d\d(?:\.\d+)?) ([+-]\d{4})\] "
    rb'"([^ "]*)'
)
_REST: Final = re.compile(
    rb' ?([^"\\]*(?:\\.[^"\\]*)*)" (\d{3}|-) (\d+|-)'
    rb"(?: "
    + _QUOTED
    + rb" "
    + _QUOTED
    # Behind a proxy, nginx's own `main` format ends in the addresses that it was forwarded for.
    + rb'(?: "([0-9A-Fa-f:.]+)(?:, ?[0-9A-Fa-f:.]+)*")?)?'
)


class Unreadable(ValueError):
    """The line is none that an access log has. The message says why, in a few words."""


class Request(NamedTuple):
    """One request. A tuple, because a frozen dataclass takes longer to make."""

    #: Seconds since 1970, as logged: nginx logs the end of a request, Apache its arrival.
    time: float
    #: The client's address, without its port.
    address: str
    #: The User-Agent header; empty where the log has none.
    agent: str
    method: str
    #: With the query.
    path: str
    #: Bytes of the request; None where the log does not tell.
    size: int | None
    #: 0 where nothing was answered.
    status: int
    #: Bytes of the response; None where the log does not tell.
    answer: int | None


class Reader:
    """Reads lines, and hands out the requests by one of the methods, or by any."""

    def __init__(self, methods: frozenset[str] | None) -> None:
        self._any = methods is None
        self._methods = methods or frozenset()
        self._verbs = frozenset(method.encode() for method in self._methods)
        named = b"|".join(sorted(self._verbs))
        self._perhaps = re.compile(rb'"' if self._any else rb'"(?:' + named + rb")\b")
        self._layouts: dict[tuple[str, ...], Layout] = {}

    def read(self, line: bytes) -> Request | None:
        """The request, or None where it is by another method. Raises Unreadable."""
        if line[:1] == b"{":
            return self._read_json(line)
        return self._read_combined(line)

    def _read_combined(self, line: bytes) -> Request | None:
        head = _HEAD.match(line)
        if head is None:
            raise Unreadable("neither combined nor JSON")
        verb = head[5]
        if verb not in self._verbs and not self._any:
            return None
        rest = _REST.match(line, head.end())
        if rest is None:
            raise Unreadable("combined without its end")
        try:
            time = minute(_text(head[2]), _text(head[4])) + float(head[3])
        except ValueError as error:
            raise Unreadable(f"its time: {error}") from None
        path, status, answer, _, agent, forwarded = rest.groups()
        return Request(
            time,
            _text(forwarded or head[1]),
            "" if agent is None or agent == b"-" else _text(agent),
            _text(verb),
            _text(path.rpartition(b" ")[0] or path),
            None,
            0 if status == b"-" else int(status),
            0 if answer == b"-" else int(answer),
        )

    def _read_json(self, line: bytes) -> Request | None:
        # Once the log is known for one of requests, those by other methods need no parsing.
        if self._layouts and not self._perhaps.search(line) and line.rstrip().endswith(b"}"):
            return None
        try:
            fields: dict[str, Any] = json.loads(_text(line))
        except (ValueError, RecursionError):
            raise Unreadable("no whole JSON object") from None
        names = self._layout(fields)
        request = fields[names.request] if names.request else ""
        verb, _, rest = request.partition(" ") if isinstance(request, str) else ("", "", "")
        method = fields[names.method] if names.method else verb
        if not method or not isinstance(method, str):
            raise Unreadable("JSON without a method")
        if method not in self._methods and not self._any:
            return None
        try:
            time = moment(fields[names.time])
        except (ValueError, OverflowError) as error:
            raise Unreadable(f"its time: {error}") from None
        path = fields[names.path] if names.path else rest.rpartition(" ")[0] or rest
        return Request(
            time,
            _address(fields, names),
            _optional(fields, names.agent),
            method,
            _path(path, _optional(fields, names.query)),
            _number(fields, names.size),
            _number(fields, names.status) or 0,
            _number(fields, names.answer),
        )

    def _layout(self, fields: Mapping[str, Any]) -> Layout:
        known = tuple(fields)
        found = self._layouts.get(known)
        if found is None:
            try:
                found = layout(known)
            except LookupError as error:
                raise Unreadable(f"JSON without {error.args[0]}") from None
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            self._layouts[known] = found
        return found


def _text(raw: bytes) -> str:
    """Two texts differ where their bytes do, whatever the encoding."""
    return raw.decode("utf-8", "surrogateescape")


def _address(fields: Mapping[str, Any], names: Layout) -> str:
    """The client's address; the first that a proxy has forwarded for, if one is told."""
    forwarded = _optional(fields, names.forwarded).partition(",")[0].strip()
    address = forwarded or _optional(fields, names.address)
    if not address:
        raise Unreadable("JSON without the client's address")
    if address.startswith("["):
        return address[1:].partition("]")[0]
    # One colon is a port's, which differs from one connection to the next; IPv6 has two or more.
    return address.partition(":")[0] if address.count(":") == 1 else address


def _path(path: object, query: str) -> str:
    if not path or not isinstance(path, str):
        raise Unreadable("JSON without a path")
    return f"{path}?{query}" if query and "?" not in path else path


def _optional(fields: Mapping[str, Any], name: str | None) -> str:
    value = fields[name] if name else ""
    return value if isinstance(value, str) and value != "-" else ""


def _number(fields: Mapping[str, Any], name: str | None) -> int | None:
    value = fields[name] if name else None
    if value is None or value == "-" or not value:
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"its {name} is no number") from None
