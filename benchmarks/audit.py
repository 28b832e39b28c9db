"""The audit of access logs: lines a second of one processor, and memory that does not grow."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

#: The smaller log is a tenth of the larger one.
SMALLER: Final = 10
#: Requests a second in the log: a tenth of the usual log outlasts the window several times.
_RATE: Final = 500
#: One request of so many is a POST, and one POST of so many is sent again.
_POSTS: Final = 10
_REPEATED: Final = 50
_START: Final = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

#: In a process of its own, as its peak is a process's; without Django, which the audit needs not.
_PROGRAM: Final = """
import json, resource, sys, time
from idempotency.audit.survey import survey
before = time.process_time()
found = survey(sys.argv[1:], methods=("POST",), window=60.0)
print(json.dumps({
    "lines": found.lines,
    "duplicates": found.total.duplicates,
    "seconds": time.process_time() - before,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""


@dataclass(frozen=True, slots=True)
class Read:
    """One log, read once."""

    format: str
    lines: int
    duplicates: int
    #: Of processor time.
    seconds: float
    #: Of the process at its largest; in KiB, on macOS in bytes.
    peak: int


def measure(lines: int) -> tuple[Read, ...]:
    """Read a log of so many lines in the combined format, a tenth of it, and a tenth in JSON."""
    logs = (
        ("combined", lines // SMALLER, _combined),
        ("combined", lines, _combined),
        ("JSON", lines // SMALLER, _json),
    )
    return tuple(_read(*log) for log in logs)


def _read(name: str, lines: int, line: Callable[[datetime, str, int, int], str]) -> Read:
    with tempfile.TemporaryDirectory(prefix="audit-") as directory:
        path = Path(directory, "access.log")
        with path.open("w") as file:
            file.writelines(_lines(lines, line))
        done = subprocess.run(
            # A process's peak begins with that of the one that started it: a shell is small.
            ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", _PROGRAM, str(path)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(done.stdout)
    if found["lines"] != lines or not found["duplicates"]:
        raise AssertionError(f"the audit did not find what was written: {found}")
    return Read(name, lines, found["duplicates"], found["seconds"], found["peak"])


def _lines(count: int, line: Callable[[datetime, str, int, int], str]) -> Iterator[str]:
    chance = random.Random(7)
    again = ""
    for number in range(count):
        if again and chance.random() < 0.1:
            yield again
            again = ""
            continue
        at = _START + timedelta(seconds=number / _RATE)
        method = "POST" if number % _POSTS == 0 else "GET"
        written = line(at, method, chance.randrange(1 << 24), chance.randrange(1000))
        if method == "POST" and number % (_POSTS * _REPEATED) == 0:
            again = written
        yield written


def _combined(at: datetime, method: str, client: int, course: int) -> str:
    address = f"10.{client >> 16}.{client >> 8 & 255}.{client & 255}"
    return (
        f'{address} - - [{at:%d/%b/%Y:%H:%M:%S} +0000] "{method} /api/courses/{course}/enrollments/'
        f' HTTP/1.1" 201 {100 + course} "https://courses.example/" "{_AGENT}"\n'
    )


def _json(at: datetime, method: str, client: int, course: int) -> str:
    line = {
        "time_iso8601": at.isoformat(timespec="milliseconds"),
        "remote_addr": f"10.{client >> 16}.{client >> 8 & 255}.{client & 255}",
        "request_method": method,
        "request_uri": f"/api/courses/{course}/enrollments/",
        "request_length": 400 + course,
        "status": 201,
        "body_bytes_sent": 100 + course,
        "http_referer": "https://courses.example/",
        "http_user_agent": _AGENT,
    }
    return json.dumps(line) + "\n"
