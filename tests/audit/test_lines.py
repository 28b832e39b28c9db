"""Lines of access logs: what is read from them, and what is refused."""

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency.audit.endpoints import endpoint
from idempotency.audit.lines import Reader, Request, Unreadable
from idempotency.audit.moments import moment, told
from tests.audit.logged import START, as_json, combined, request

POST = frozenset({"POST"})


def read(line: str | bytes, methods: frozenset[str] | None = POST) -> Request | None:
    return Reader(methods).read(line.encode() if isinstance(line, str) else line)


# The combined format and its kin


def test_a_combined_line_is_read() -> None:
    line = (
        '192.0.2.7 - - [02/Mar/2026:11:00:01 +0200] "POST /orders/?a=1 HTTP/1.1" 201 120'
        ' "https://shop.example/" "Mozilla/5.0 (X11; Linux x86_64)"'
    )
    agent = "Mozilla/5.0 (X11; Linux x86_64)"
    assert read(line) == request(1, path="/orders/?a=1", agent=agent)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", ' "-"'),
        ("", " 0.004"),
        ("shop.example:443 ", ""),
        ("", "\r"),
    ],
    ids=["plain", "nobody forwarded", "request time", "vhost_combined", "carriage return"],
)
def test_the_kin_of_the_combined_format_read_the_same(before: str, after: str) -> None:
    assert read(f"{before}{combined()}{after}") == request()


def test_the_common_format_has_no_agent() -> None:
    common = combined().removesuffix(' "-" "app/1.0"')
    assert read(common) == request(agent="")


def test_a_user_may_have_a_name_of_two_words() -> None:
    assert read(combined().replace(" - - ", " - jane doe ")) == request()


@pytest.mark.parametrize("address", ["2001:db8::7", "::1", "fe80::1%eth0", "client.example"])
def test_any_address_is_taken_as_it_is(address: str) -> None:
    found = read(combined(address=address))
    assert found is not None
    assert found.address == address


def test_behind_a_proxy_the_client_is_who_it_forwarded_for() -> None:
    """By the proxy's own address, all clients of a kind would be one."""
    line = combined(address="10.0.0.1") + ' "2001:db8::9, 10.0.0.2"'
    assert read(line) == request(address="2001:db8::9")


@pytest.mark.parametrize("agent", [r"\"quoted\" app", r"back\\slash", r"\x22q\x22", "ünïcode"])
def test_escaped_quotes_end_no_user_agent(agent: str) -> None:
    assert read(combined(agent=agent) + ' "192.0.2.9"') == request(agent=agent, address="192.0.2.9")


def test_a_path_may_hold_escaped_quotes_and_spaces() -> None:
    assert read(combined(path=r"/a b/\"c\"")) == request(path=r"/a b/\"c\"")


def test_what_is_missing_is_none_or_nothing() -> None:
    assert read(combined(agent="-", status="-", answer="-")) == request(
        agent="", status=0, answer=0
    )


def test_bytes_that_are_no_utf_8_stay_apart() -> None:
    one, other = (combined(path="/a/").encode().replace(b"/a/", b) for b in (b"/\xff", b"/\xfe"))
    assert read(one) != read(other)


@pytest.mark.parametrize("method", ["GET", "-", "PATCH"])
def test_another_method_is_read_and_left_out(method: str) -> None:
    assert read(combined(method=method)) is None
    assert read(as_json(request_method=method)) is None


def test_methods_are_chosen() -> None:
    assert read(combined(method="PATCH"), frozenset({"PATCH"})) == request(method="PATCH")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026/03/02 09:00:00 [error] 7#7: *1 upstream timed out",
        combined()[:20],
        combined()[:66],
        combined().replace("02/Mar", "31/Feb"),
        combined().replace("Mar", "Mrz"),
        combined().replace(" 201 ", " two "),
        "\x00" * 100,
    ],
    ids=["empty", "an error", "cut early", "cut late", "no date", "no month", "no status", "zeros"],
)
def test_a_broken_line_is_unreadable(line: str) -> None:
    with pytest.raises(Unreadable):
        read(line)


@given(st.binary())
def test_no_line_does_more_harm_than_that(line: bytes) -> None:
    for start in (b"", b"{", combined().encode()[:45], as_json().encode()[:60]):
        with suppress(Unreadable):
            Reader(None).read(start + line)


# JSON


def test_a_json_line_is_read_with_the_requests_size() -> None:
    assert read(as_json(1.25)) == request(1.25, size=412)


@pytest.mark.parametrize(
    "fields",
    [
        {"time": "2026-03-02T09:00:00Z"},
        {"timestamp": "2026-03-02T11:00:00.000+02:00"},
        {"@timestamp": "2026-03-02 09:00:00,000"},
        {"time_local": "02/Mar/2026:10:00:00 +0100"},
        {"time": "[02/Mar/2026:09:00:00 +0000]"},
        {"msec": "1772442000.000"},
        {"ts": 1772442000},
        {"ts": 1772442000000},
    ],
    ids=lambda fields: "{}: {}".format(*next(iter(fields.items()))),
)
def test_a_time_is_read_however_it_is_written(fields: dict[str, Any]) -> None:
    assert read(as_json(without=("time_iso8601",), **fields)) == request(size=412)


def test_fields_have_the_names_that_servers_give_them() -> None:
    line = {
        "Time": "2026-03-02T09:00:00Z",
        "client_ip": "192.0.2.7",
        "user-agent": "app/1.0",
        "method": "POST",
        "path": "/orders/",
        "query_string": "a=1",
        "content_length": "412",
        "status_code": "201",
        "bytes": "120",
    }
    assert read(json.dumps(line)) == request(path="/orders/?a=1", size=412)


def test_a_request_line_has_method_and_path() -> None:
    line = as_json(without=("request_method", "request_uri"), request="POST /orders/?a=1 HTTP/1.1")
    assert read(line) == request(path="/orders/?a=1", size=412)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"remote_addr": "2001:db8::7"}, "2001:db8::7"),
        ({"remote_addr": "[2001:db8::7]:4711"}, "2001:db8::7"),
        ({"remote_addr": "192.0.2.7:4711"}, "192.0.2.7"),
        ({"http_x_forwarded_for": "192.0.2.9, 10.0.0.2"}, "192.0.2.9"),
        ({"http_x_forwarded_for": "-"}, "192.0.2.7"),
    ],
)
def test_a_client_is_known_by_its_address_alone(fields: dict[str, Any], address: str) -> None:
    """The port is another for each connection, a retry's too."""
    assert read(as_json(**fields)) == request(size=412, address=address)


def test_of_sizes_and_answers_there_may_be_none() -> None:
    without = ("request_length", "body_bytes_sent", "http_user_agent")
    assert read(as_json(without=without)) == request(agent="", answer=None)
    assert read(as_json(status="-", request_length="", body_bytes_sent=None)) == request(
        status=0, answer=None
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (as_json()[:50], "no whole JSON object"),
        ('{"a":' + "[" * 100_000, "no whole JSON object"),
        (as_json(without=("time_iso8601",)), "without a time"),
        (as_json(without=("remote_addr",)), "without the client's address"),
        (as_json(without=("request_method",)), "without a method or a path"),
        (as_json(without=("status",)), "without a status"),
        (as_json(request_uri=None), "without a path"),
        (as_json(request_method=7), "without a method"),
        (as_json(time_iso8601="yesterday"), "its time"),
        (as_json(time_iso8601=[]), "its time"),
        (as_json(time_iso8601=10**400), "its time"),
        (as_json(time_iso8601=float("inf")), "its time"),
        (as_json(status="fine"), "its status is no number"),
        (as_json(request_length=[1]), "its request_length is no number"),
    ],
)
def test_a_json_line_that_says_too_little_tells_what(line: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read(line)


def test_lines_of_all_kinds_may_follow_each_other() -> None:
    reader = Reader(POST)
    for line, size in ((combined(), None), (as_json(), 412)) * 2:
        assert reader.read(line.encode()) == request(size=size)


def test_what_is_passed_over_unparsed_hides_nothing() -> None:
    """A JSON log that is known for one is not parsed for requests by other methods."""
    reader = Reader(frozenset({"POST", "PATCH"}))
    assert reader.read(as_json(request_method="GET").encode()) is None
    assert reader.read(as_json(request_method="GET").encode() + b"\r") is None
    with pytest.raises(Unreadable, match="no whole JSON object"):
        reader.read(as_json(request_method="GET").encode()[:-1])
    lines = (
        as_json(),
        as_json(without=("request_method", "request_uri"), request="POST /orders/ HTTP/1.1"),
    )
    for line in lines:
        assert reader.read(line.encode()) == request(size=412)


def test_json_that_is_of_no_request_is_unreadable_to_its_end() -> None:
    reader = Reader(POST)
    for _ in range(3):
        with pytest.raises(Unreadable, match="without a status"):
            reader.read(b'{"time": "2026-03-02T09:00:00Z", "message": "started"}')


def test_a_log_that_makes_up_fields_is_read_to_its_end() -> None:
    reader = Reader(POST)
    for number in range(1_000):
        fields: dict[str, Any] = {f"field_{number}": 1}
        assert reader.read(as_json(**fields).encode()) == request(size=412)
    assert len(reader._layouts) < 100


# Times and endpoints


def test_a_time_is_told_to_the_second() -> None:
    assert told(START.timestamp() + 0.9) == "2026-03-02T09:00:00+00:00"
    assert told(1e300).startswith("9999-")


def test_a_number_is_seconds_or_less() -> None:
    assert [moment(1772442000 * 10**power) for power in (0, 3, 6, 9)] == [1772442000.0] * 4


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/orders/", "/orders/"),
        ("/orders/?page=7", "/orders/"),
        ("https://shop.example/orders/7?a=1", "/orders/{id}"),
        ("/orders/7/items/08/", "/orders/{id}/items/{id}/"),
        ("/orders/7.json", "/orders/{id}.json"),
        ("/v2/orders/", "/v2/orders/"),
        ("/orders/8E03978e-40d5-43e8-bc93-6894a57f9324/pay", "/orders/{id}/pay"),
        ("/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/orders/{id}"),
        ("/files/9f86d081884c7d659a2feaa0c55ad015", "/files/{id}"),
        ("/feedbacc/", "/feedbacc/"),
        ("", "/"),
        ("/" + "x" * 10_000, "/" + "x" * 199),
    ],
)
def test_an_endpoint_is_a_path_without_ids(path: str, found: str) -> None:
    assert endpoint(path) == found


def test_the_audit_needs_no_django() -> None:
    program = (
        "import sys; sys.modules['django'] = None;"
        " import idempotency.audit.survey, idempotency.audit.report"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
