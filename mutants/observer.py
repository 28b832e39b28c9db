"""A pytest plugin that writes down what became of each test, for `mutants.trial`."""

import json
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

import idempotency

#: Names the file to write to.
VARIABLE = "MUTANTS_REPORT"


def pytest_configure() -> None:
    _write(package=str(idempotency.__file__))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(uncollected=report.nodeid, says=str(report.longrepr)[-500:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed or report.when == "call":
        error = None if call.excinfo is None else call.excinfo.value
        _write(
            test=item.nodeid,
            passed=report.passed,
            when=report.when,
            kinds=[type(each).__name__ for each in _causes(error)],
            says="" if error is None else f"{type(error).__name__}: {error}".splitlines()[0],
        )
    return report


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _write(**line: Any) -> None:
    with open(os.environ[VARIABLE], "a") as report:  # noqa: PTH123 - a name, for one line
        report.write(json.dumps(line) + "\n")
