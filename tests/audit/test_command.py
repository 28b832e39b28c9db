"""`idempotency_audit`: what it reads, says and ends with. It asks no database: none is marked."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from idempotency.audit import sources, summary
from idempotency.audit.lines import Request
from idempotency.audit.logs import Log
from tests.audit.logged import as_json, combined

Wrote = Callable[..., str]


@pytest.fixture
def log(tmp_path: Path) -> Wrote:
    """Writes a log, and returns its path."""

    def write(*lines: str, name: str = "access.log", packed: bool = False) -> str:
        raw = "".join(f"{line}\n" for line in lines).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw) if packed else raw)
        return str(path)

    return write


def audit(*arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    out = io.StringIO()
    try:
        call_command("idempotency_audit", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code), out.getvalue()
    return 0, out.getvalue()


def figures(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(audit(*arguments, "--json")[1])
    return found


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as error:
        audit(*arguments)
    assert error.value.returncode == 1
    return str(error.value)


#: A day on which two of four orders were made twice, and one payment was retried.
DAY = (
    combined(0, path="/orders/"),
    combined(2, path="/orders/"),
    combined(3, path="/orders/"),
    combined(100, path="/orders/", address="2001:db8::7"),
    combined(300, path="/pay/1/", status=499, answer=0),
    combined(310, path="/pay/1/"),
    combined(400, path="/pay/2/"),
    combined(405, path="/pay/2/"),
    combined(410, method="GET", path="/pay/2/"),
)


# What it says


def test_the_report_ranks_endpoints_by_what_protecting_them_saves(log: Wrote) -> None:
    code, out = audit(log(*DAY))
    assert code == 3
    assert "9 lines of 1 log, 2026-03-02T09:00:00+00:00 to 2026-03-02T09:06:45+00:00." in out
    assert "8 POST requests, of which 3 likely duplicates (37.50%)" in out
    rows = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line) for line in out.splitlines()}
    assert rows["POST /orders/"][1:] == ["4", "1", "2", "50.00%", "0", "66.7%"]
    assert rows["POST /pay/{id}/"][1:] == ["4", "1", "1", "25.00%", "1", "100.0%"]
    assert rows["all"][1:] == ["8", "2", "3", "37.50%", "1"]
    assert rows["1 to 5 s"][1:] == ["2", "0"]
    assert rows["5 to 30 s"][1:] == ["1", "1"]
    assert rows["192.0.2.7 app/1.0"][1:] == ["2", "3", "1", "3"]
    assert "Likely, not certain" in out
    assert "tells no request size" in out


def test_the_json_has_these_keys_and_figures(log: Wrote) -> None:
    path = log(*DAY)
    assert figures(path) == {
        "sources": [path],
        "lines": 9,
        "unreadable": {"lines": 0, "first": [], "cut_short": []},
        "from": "2026-03-02T09:00:00+00:00",
        "to": "2026-03-02T09:06:45+00:00",
        "methods": ["POST"],
        "window_seconds": 60.0,
        "certain": False,
        "requests": 8,
        "requests_of_known_size": 0,
        "groups": 2,
        "duplicates": 3,
        "share": 0.375,
        "retried": 1,
        "answered_otherwise": 0,
        "most_attempts": 3,
        "endpoints": [
            {
                "endpoint": "POST /orders/",
                "requests": 4,
                "groups": 1,
                "duplicates": 2,
                "share": 0.5,
                "retried": 0,
                "answered_otherwise": 0,
                "most_attempts": 3,
                "cumulative_share": 0.666667,
            },
            {
                "endpoint": "POST /pay/{id}/",
                "requests": 4,
                "groups": 1,
                "duplicates": 1,
                "share": 0.25,
                "retried": 1,
                "answered_otherwise": 0,
                "most_attempts": 2,
                "cumulative_share": 1.0,
            },
        ],
        "gaps": [
            {"from": 0, "below": 1, "duplicates": 0, "retries": 0},
            {"from": 1, "below": 5, "duplicates": 2, "retries": 0},
            {"from": 5, "below": 30, "duplicates": 1, "retries": 1},
            {"from": 30, "below": 60, "duplicates": 0, "retries": 0},
            {"from": 60, "below": None, "duplicates": 0, "retries": 0},
        ],
        "clients": [
            {
                "client": "192.0.2.7 app/1.0",
                "groups": 2,
                "duplicates": 3,
                "retried": 1,
                "most_attempts": 3,
            }
        ],
        "left_out": {
            "requests_to_further_endpoints": 0,
            "groups_of_further_clients": 0,
            "groups_given_up": 0,
            "jumps_in_time": 0,
        },
    }


def test_without_duplicates_it_says_so_and_ends_with_0(log: Wrote) -> None:
    code, out = audit(log(combined(0), combined(61)))
    assert code == 0
    assert "2 POST requests, of which 0 likely duplicates" in out
    assert "endpoint" not in out


def test_retries_alone_are_told_and_end_with_0(log: Wrote) -> None:
    code, out = audit(log(combined(0, status=504), combined(1)))
    assert code == 0
    assert re.search(r"POST /orders/ +2 +0 +0 +0.00% +1 +-\n", out)


def test_a_log_without_a_request_that_counts_is_told(log: Wrote) -> None:
    path = log(combined(method="GET"))
    assert "0 POST requests" in audit(path)[1]
    assert figures(path)["from"] is None


def test_methods_and_window_are_chosen(log: Wrote) -> None:
    lines = (combined(0, method="PATCH"), combined(5, method="PATCH"))
    path = log(*lines)
    assert figures(path)["requests"] == 0
    assert figures(path, "--methods", "post, patch")["duplicates"] == 1
    assert figures(path, "--methods", "PATCH", "--window", "4.9")["duplicates"] == 0


def test_the_top_is_as_long_as_asked_for(log: Wrote) -> None:
    lines = [combined(each, path=f"/{name}/") for each in (0, 1) for name in "abc"]
    path = log(*lines)
    found = figures(path, "--top", "2")
    assert [each["endpoint"] for each in found["endpoints"]] == ["POST /a/", "POST /b/"]
    assert found["duplicates"] == 3
    assert "... and 1 endpoint more" in audit(path, "--top", "2")[1]


def test_a_log_that_tells_sizes_is_not_said_to_lack_them(log: Wrote) -> None:
    code, out = audit(log(as_json(0), as_json(1, body_bytes_sent=7)))
    assert code == 3
    assert "tells no request size" not in out


def test_repeats_with_another_answer_are_counted_apart(log: Wrote) -> None:
    path = log(combined(0), combined(1, answer=900))
    assert figures(path)["answered_otherwise"] == 1
    assert "left out, with another answer: 1." in audit(path)[1]


def test_what_a_client_sent_does_not_reach_the_terminal(log: Wrote) -> None:
    lines = [as_json(each, request_uri="/\x1b[2J/", http_user_agent="\x07app") for each in (0, 1)]
    for output in (audit(log(*lines))[1], figures(log(*lines))["clients"][0]["client"]):
        assert "\x1b" not in output
        assert "\x07" not in output
        assert "?app" in output


# What it reads


def test_gzip_is_known_by_its_first_bytes(log: Wrote) -> None:
    assert figures(log(*DAY, name="a.log", packed=True))["duplicates"] == 3
    assert figures(log(*DAY, name="b.log.gz"))["duplicates"] == 3


def test_a_rotated_log_of_several_gzip_members_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "access.log.gz"
    path.write_bytes(b"".join(gzip.compress(f"{line}\n".encode()) for line in DAY))
    assert figures(str(path))["duplicates"] == 3


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    raw = "\n".join(DAY).encode()
    piped = io.BufferedReader(io.BytesIO(gzip.compress(raw) if packed else raw))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
    found = figures("-")
    assert (found["sources"], found["lines"], found["duplicates"]) == (["-"], 9, 3)


def test_a_named_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=["\n".join(DAY)])
    writer.start()
    try:
        assert figures(str(path))["duplicates"] == 3
    finally:
        writer.join()


@pytest.mark.parametrize("newest_first", [False, True])
def test_rotated_logs_are_one_whatever_their_order(log: Wrote, newest_first: bool) -> None:
    older, newer = log(*DAY[:2], name="1", packed=True), log(*DAY[2:], name="0")
    found = figures(*((newer, older) if newest_first else (older, newer)))
    assert (found["duplicates"], found["left_out"]["jumps_in_time"]) == (3, 0)


def test_logs_of_several_servers_are_merged_by_time(log: Wrote) -> None:
    """A retry comes to whichever server is free."""
    lines = [combined(30 * each) for each in range(40)]
    one, other = log(*lines[::2], name="one"), log(*lines[1::2], name="other")
    found = figures(one, other, "--window", "30")
    assert (found["duplicates"], found["left_out"]["jumps_in_time"]) == (39, 0)


@pytest.mark.parametrize("step", [1, -1])
def test_a_rotated_log_is_opened_when_its_time_comes(
    log: Wrote, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    read, most = Log.requests, []

    def counted(self: Log, progress: Any) -> Iterator[Request]:
        running.add(self.name)
        most.append(len(running))
        yield from read(self, progress)
        running.remove(self.name)

    running: set[str] = set()
    monkeypatch.setattr(Log, "requests", counted)
    paths = [log(combined(100 * each), name=str(each)) for each in range(20)]
    assert figures(*paths[::step])["lines"] == 20
    assert max(most) == 1


def test_lines_that_cannot_be_read_are_counted_and_named(log: Wrote) -> None:
    lines = [line for each in DAY for line in (each, "broken")]
    path = log(*lines, "", as_json(500)[:30])
    code, out = audit(path)
    assert code == 3
    assert "10 lines could not be read" in out
    assert [int(number) for number in re.findall(r"line (\d+): ", out)] == [2, 4, 6, 8, 10]
    found = figures(path)["unreadable"]
    assert found["lines"] == 10
    assert found["first"][0] == {"source": path, "line": 2, "reason": "neither combined nor JSON"}


def test_a_line_without_end_takes_no_memory_without_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    lines = (combined(0), "x" * (3 * sources.LONGEST), combined(1))
    path.write_text("\n".join(lines))
    assert max(map(len, pieces(path))) <= sources.LONGEST + sources.CHUNK
    found = figures(str(path))
    assert (found["lines"], found["unreadable"]["lines"], found["duplicates"]) == (3, 1, 1)


def pieces(path: Path) -> list[bytes]:
    return [line for lines, _ in sources.Source(str(path)).chunks() for line in lines]


def test_a_gzip_file_that_breaks_off_counts_as_far_as_it_goes(tmp_path: Path, log: Wrote) -> None:
    path = tmp_path / "torn.gz"
    path.write_bytes(
        gzip.compress("".join(f"{line}\n" for line in DAY).encode())[:-8]
    )  # its checksum
    code, out = audit(str(path), log(combined(5000)))
    assert code == 3
    assert "torn.gz breaks off after line 9" in out
    (cut,) = figures(str(path))["unreadable"]["cut_short"]
    assert (cut["source"], cut["line"]) == (str(path), 9)


def test_more_endpoints_and_clients_than_it_tells_apart_are_counted_together(
    log: Wrote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "MAX_ENDPOINTS", 2)
    monkeypatch.setattr(summary, "MAX_CLIENTS", 3)
    lines = [
        combined(each, path=f"/{name}/", address=f"192.0.2.{ord(name)}")
        for each in (0, 1)
        for name in "abcdef"
    ]
    path = log(*lines)
    found = figures(path)
    assert (found["requests"], found["duplicates"]) == (12, 6)
    assert {each["endpoint"]: each["duplicates"] for each in found["endpoints"]} == {
        "POST /a/": 1,
        "POST /b/": 1,
        "(further)": 4,
    }
    assert found["left_out"]["requests_to_further_endpoints"] == 8
    assert found["left_out"]["groups_of_further_clients"] == 3
    assert "8 requests to further endpoints, counted together." in audit(path)[1]


# What it refuses


def test_a_missing_log_is_named_before_another_is_read(
    log: Wrote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: object, progress: object) -> None:
        raise AssertionError("work that is lost")

    monkeypatch.setattr("idempotency.audit.logs.Log.requests", read)
    assert "nowhere.log cannot be read: No such file" in refused(log(*DAY), "nowhere.log")
    foreign = log("something else", name="notes.txt")
    assert "notes.txt is no access log" in refused(log(*DAY), foreign)


def test_a_directory_is_named(tmp_path: Path) -> None:
    assert "is a directory: name the log files in it" in refused(str(tmp_path))


def test_a_log_that_may_not_be_read_is_named(log: Wrote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "access.log may not be read" in refused(log(*DAY))


def test_what_is_no_access_log_is_told_what_is_expected(log: Wrote) -> None:
    message = refused(log("", "Dear diary,", "today", name="diary.txt"))
    assert "diary.txt is no access log: line 2 is neither combined nor JSON" in message
    assert "combined or common format of Apache and nginx, or JSON lines" in message


def test_a_pipe_that_holds_no_access_log_is_refused_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piped = io.BufferedReader(io.BytesIO(b"Dear diary,\n\ntoday"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))
    assert "Standard input is no access log: line 1" in refused("-")


def test_a_gzip_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "access.log.gz"
    path.write_bytes(b"\x1f\x8b and nothing that belongs to it")
    assert "access.log.gz cannot be read" in refused(str(path))


def test_empty_logs_are_fine_beside_others_and_refused_alone(log: Wrote) -> None:
    empty = log(name="empty.log")
    assert figures(empty, log(*DAY))["duplicates"] == 3
    assert "empty.log: there is no line to read" in refused(empty)


def test_a_log_that_is_named_twice_would_count_twice(log: Wrote, tmp_path: Path) -> None:
    path, link = log(*DAY), tmp_path / "link.log"
    link.symlink_to(path)
    assert "are the same log: name it once" in refused(path, str(link))
    assert "are the same log" in refused("-", "-")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--window", "0"],
        ["--window", "nan"],
        ["--window", "inf"],
        ["--window", "soon"],
        ["--top", "0"],
        ["--top", "all"],
        ["--methods", ""],
        ["--methods", "POST,,"],
    ],
)
def test_bad_arguments_are_named(log: Wrote, arguments: list[str]) -> None:
    assert arguments[0] in refused(log(*DAY), *arguments)


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("output", [Terminal, io.StringIO])
def test_progress_is_shown_on_a_terminal_alone(
    log: Wrote, monkeypatch: pytest.MonkeyPatch, output: type[io.StringIO]
) -> None:
    monkeypatch.setattr("idempotency.management.commands.idempotency_audit.SHOWN_EVERY", 0)
    out, error = io.StringIO(), output()
    with pytest.raises(SystemExit):
        call_command("idempotency_audit", log(*DAY), stdout=out, stderr=error)
    shown = "\r9 lines, 0 MB\x1b[K\r\x1b[K" if output is Terminal else ""
    assert error.getvalue() == shown
    assert "\r" not in out.getvalue()


# In a process of its own


def test_it_runs_without_a_database_and_its_exit_code_tells(log: Wrote) -> None:
    def run(stdin: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "django", "idempotency_audit", *arguments],
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings.lint"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    found = run("\n".join(DAY), "-", "--json")
    assert (found.returncode, found.stderr) == (3, "")
    assert json.loads(found.stdout)["duplicates"] == 3
    missing = run("", "nowhere.log")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "nowhere.log" in missing.stderr
