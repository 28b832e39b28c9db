"""Runs tests in a copy of the tree, with a guard or without it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mutants.mutant import Mutant
from mutants.observer import VARIABLE

#: What no test needs, or what a copy makes for itself.
_LEFT_OUT: Final = (".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis", "*.egg-info")
#: Errors that tell of code that does not run at all, not of a guard that is missing.
_BROKEN: Final = frozenset(
    {
        "ImportError",
        "ModuleNotFoundError",
        "NameError",
        "ProgrammingError",
        "SyntaxError",
        "TypeError",
    }
)


#: Seconds for a run that is called off to put its things away.
PATIENCE: Final = 20.0


class Untried(Exception):
    """A run of tests came to nothing that could be judged."""


@dataclass(frozen=True, slots=True)
class Red:
    """A test that failed, or could not be run."""

    test: str
    #: The first line of its error.
    says: str
    #: Whether it ran, and failed by what it found.
    by_itself: bool


@dataclass(frozen=True, slots=True)
class Run:
    """What became of the tests that were asked for."""

    green: frozenset[str] = frozenset()
    red: tuple[Red, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A copy of the project, in which one guard at a time is taken away."""

    root: Path
    #: Variables for the tests: the servers that they use.
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def copied(cls, source: Path, root: Path, environment: Mapping[str, str]) -> "Tree":
        """A copy of the working tree as it is now."""
        shutil.copytree(source, root, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        return cls(root, environment)

    @contextmanager
    def without(self, mutant: Mutant) -> Iterator[None]:
        """The guard is gone while the block runs. Raises Misplaced."""
        changed = mutant.texts(self.root)
        kept = {path: path.read_text() for path in changed}
        try:
            for path, text in changed.items():
                path.write_text(text)
            yield
        finally:
            for path, text in kept.items():
                path.write_text(text)

    def run(self, tests: Sequence[str], *, limit: float, all_of_them: bool = False) -> Run:
        """Run tests up to the first red one, or all of them. Raises Untried, also where they take
        longer than `limit` seconds."""
        report = self.root / ".mutants-report"
        report.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "mutants.observer"),
            *("-p", "no:cacheprovider", *(() if all_of_them else ("-x",)), *tests),
        ]
        # No bytecode: a file that changes twice within a second would be taken for the one before.
        environment = {**os.environ, **self.environment, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONPATH", None)
        # A file, not a pipe, which the workers and servers of a hung test would keep open.
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env={**environment, VARIABLE: str(report)},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                raise Untried(f"no end after {limit:.0f} s") from None
            finally:
                _end(process)
            said.seek(0)
            last = _last_words(said.read())
        lines = report.read_text().splitlines() if report.exists() else []
        run = self._read(lines)
        # Green or red; anything else is an interruption, or tests that are not there.
        if not run.red and code != 0:
            raise Untried(last)
        return run

    def _read(self, lines: Sequence[str]) -> Run:
        green: set[str] = set()
        red: list[Red] = []
        for line in map(json.loads, lines):
            match line:
                case {"package": place}:
                    if not Path(place).is_relative_to(self.root):
                        raise Untried(f"the tests ran on {place}, not on the copy")
                case {"uncollected": place, "says": says}:
                    red.append(Red(place, says.splitlines()[-1] if says else "", by_itself=False))
                case {"passed": True, "test": test}:
                    green.add(test)
                case {"test": test, "when": when, "kinds": kinds, "says": says}:
                    ran = when == "call" and _BROKEN.isdisjoint(kinds)
                    red.append(Red(test, says, by_itself=ran))
        return Run(frozenset(green) - {each.test for each in red}, tuple(red))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C does, so that fixtures take down what they have started; else by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        process.kill()
        process.wait()


def _last_words(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "pytest said nothing"
