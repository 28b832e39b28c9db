"""The demo command from end to end, as a person runs it."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from enrollment_demo.demo.processes import ROOT
from idempotency.audit.survey import survey
from tests.concurrent import until

#: Seconds for a small demo on a loaded machine.
PATIENCE = 300

COMMON = {
    "students": int,
    "requests": int,
    "enrollments": int,
    "invoices": int,
    "roster_entries": int,
    "duplicates": int,
}
PROTECTED = COMMON | {
    "replayed_from_cache": int,
    "replayed_from_ledger": int,
    "caught_by_constraint": int,
    "p50_ms_replay": float,
    "p95_ms_replay": float,
}
IMPORT = COMMON | {
    "retries_while_running": int,
    "in_at_kill": int,
    "redone_after_kill": int,
    "attempts": int,
    "seconds": float,
}


Run = subprocess.Popen[str]
Start = Callable[..., Run]


@pytest.fixture
def demo() -> Iterator[Start]:
    """Starts `manage.py demo`; whatever a failed test leaves behind is ended."""
    with ExitStack() as stack:

        def start(environment: dict[str, str], *arguments: str) -> Run:
            run = subprocess.Popen(
                [sys.executable, "manage.py", "demo", *arguments],
                cwd=ROOT,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(run)
            stack.callback(run.kill)
            return run

        yield start


def lines_until(run: Run, last: str) -> list[str]:
    """What it prints up to a line that holds `last`."""
    assert run.stdout is not None
    overdue = threading.Timer(PATIENCE, run.kill)
    overdue.start()
    seen = []
    try:
        for line in run.stdout:
            seen.append(line)
            if last in line:
                return seen
    finally:
        overdue.cancel()
    pytest.fail("the demo ended early:\n" + "".join(seen))


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def test_from_end_to_end(demo: Start, plain_environment: dict[str, str], tmp_path: Path) -> None:
    """Duplicates without the layers, none with them, a section whose worker was killed and that is
    imported once; services to look at afterwards, and logs that tell an audit the truth."""
    figures, logs = tmp_path / "figures.json", tmp_path / "logs"
    logs.mkdir()
    options = ("--students", "8", "--serve", "--json", str(figures), "--logs", str(logs))
    run = demo(plain_environment, *options)
    said = "".join(lines_until(run, "API "))
    started = family(run.pid)

    document = json.loads(figures.read_text())
    assert list(document) == ["unprotected", "protected", "section_import"]
    for part, names, students in (
        ("unprotected", COMMON, 8),
        ("protected", PROTECTED, 8),
        ("section_import", IMPORT, 40),
    ):
        assert {name: type(value) for name, value in document[part].items()} == names
        assert document[part]["students"] == students
    assert document["unprotected"]["duplicates"] > 0
    assert document["protected"]["duplicates"] == 0
    assert [document["protected"][kind] for kind in list(COMMON)[2:5]] == [8, 8, 8]
    assert document["protected"]["replayed_from_ledger"] > 0
    assert "duplicate rows" in said
    imported = document["section_import"]
    assert [imported[kind] for kind in list(COMMON)[2:]] == [40, 40, 40, 0]
    assert 0 < imported["in_at_kill"] < 40
    assert imported["attempts"] >= 2
    assert imported["redone_after_kill"] < imported["attempts"]  # one step each, the one in hand
    assert imported["retries_while_running"] > 0

    assert_audited(logs, document["unprotected"])
    log_in(said)
    run.send_signal(signal.SIGINT)
    assert run.wait(PATIENCE) == 0, run.stdout.read() if run.stdout else ""
    until(lambda: gone(started))


def assert_audited(logs: Path, truth: dict[str, int]) -> None:
    """What the enrollment servers have logged while nothing was protected tells an audit how many
    duplicates there are: exactly, since each row beyond a student's first was made by a request of
    the same size, from the same address, within a minute of another, and is logged with its 201,
    whether or not its client has seen that."""
    found = survey(
        [str(log) for log in sorted(logs.glob("bypassed-enrollment-*.access.log"))],
        methods=("POST",),
        window=60.0,
    )
    assert len(found.logs) == 2
    (enrollments,) = found.endpoints()
    assert enrollments.tally.name == "POST /api/enrollments/"
    assert enrollments.tally.duplicates == truth["enrollments"] - truth["students"] > 0
    # A client may give up before its request is out.
    assert enrollments.tally.requests <= truth["requests"]


def log_in(said: str) -> None:
    """Into the admin site, as the demo says one can."""
    address = re.search(r"admin site +(\S+)", said)
    password = re.search(r"user admin, password (\S+)", said)
    assert address
    assert password
    with requests.Session() as browser:
        url = f"{address[1]}login/?next=/admin/enrollment/enrollment/"
        browser.get(url, timeout=30)
        form = {"username": "admin", "password": password[1]}
        token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        page = browser.post(url, data=form | token, timeout=30)
        assert page.status_code == 200
        assert "s-0008" in page.text


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "postgres: checkpointer"), (signal.SIGINT, "demo.prepare")],
)
def test_an_interrupted_demo_leaves_no_process(
    demo: Start, plain_environment: dict[str, str], number: signal.Signals, moment: str
) -> None:
    """Wherever it is: here, when the first server is up, and while the databases are filled."""
    run = demo(plain_environment)
    started = family_with(run, moment)

    run.send_signal(number)

    assert run.wait(PATIENCE) == 128 + number
    until(lambda: gone(started))
    assert run.stdout is not None
    assert "Traceback" not in run.stdout.read()


@pytest.mark.parametrize(
    ("word", "number"),
    [("gunicorn", 8), ("celery", 4)],  # four masters and their workers; a worker of three, a beat
)
def test_a_killed_demo_leaves_no_process(
    demo: Start, plain_environment: dict[str, str], word: str, number: int
) -> None:
    """Services, workers and servers notice by themselves that their owner is gone."""
    run = demo(plain_environment, "--students", "1")
    started = family_with(run, word, number)

    run.kill()

    run.wait(PATIENCE)
    until(lambda: gone(started))


@pytest.mark.parametrize("command", ["worker --concurrency 1", "beat --schedule {}/schedule"])
def test_celery_ends_with_its_starter_though_the_broker_was_never_there(
    command: str, plain_environment: dict[str, str], closed_port: int, tmp_path: Path
) -> None:
    """A killed demo's Redis goes first: whoever still looks for it would look for ever."""
    log = tmp_path / "celery.log"
    own = {
        "DJANGO_SETTINGS_MODULE": "settings.enrollment",
        "CELERY_BROKER_URL": f"redis://127.0.0.1:{closed_port}/0",
        "REMAP_SIGTERM": "SIGQUIT",
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "enrollment_demo.demo.celery_app"),
                *command.format(tmp_path).split(),
            ],
            cwd=ROOT,
            env=plain_environment | own,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        ) as run,
    ):
        try:
            until(lambda: "refused" in log.read_text())
            assert run.stdin is not None
            run.stdin.close()
            run.wait(PATIENCE / 10)
        finally:
            run.kill()


def family_with(run: Run, word: str, number: int = 1) -> list[psutil.Process]:
    """All processes below the run, once so many of them have the word in their command line."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert run.poll() is None, run.stdout.read() if run.stdout else ""
        found = family(run.pid)
        if sum(word in " ".join(command(process)) for process in found) >= number:
            return found
        time.sleep(0.05)
    pytest.fail(f"no process with {word!r} came up")


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--students", "0"], "from 1 to 10000, not '0'"),
        (["--students", "many"], "from 1 to 10000, not 'many'"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["--json", "/no/such/folder/figures.json"], "/no/such/folder"),
        (["--logs", "/no/such/folder"], "/no/such/folder is no folder"),
    ],
)
def test_bad_arguments(
    demo: Start, plain_environment: dict[str, str], arguments: list[str], complaint: str
) -> None:
    """Refused at once, in words."""
    run = demo(plain_environment, *arguments)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    assert complaint in said
    assert "Traceback" not in said


def test_bad_servers(demo: Start, plain_environment: dict[str, str]) -> None:
    """The variable is named, not the driver's stack."""
    for variable, value in (
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x"),
        ("DATABASE_URL", "sqlite:///x"),
        ("REDIS_URL", "unix:///tmp/redis"),
    ):
        run = demo(plain_environment | {variable: value})
        said, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == 1
        assert variable in said
        assert "Traceback" not in said
