"""Counting from outside: the lists that each service shows, and what its processes counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import requests

from enrollment_demo.demo.plan import Plan
from enrollment_demo.demo.section import Section, Seen
from enrollment_demo.demo.visitors import Tally

#: What a student should have exactly one of -> service, list.
ROWS = {
    "enrollments": ("enrollment", "/api/enrollments/"),
    "invoices": ("billing", "/api/invoices/"),
    "roster_entries": ("roster", "/api/roster-entries/"),
}


class Outsider:
    """Asks the services over HTTP, as anybody with a token could."""

    def __init__(self, token: str) -> None:
        self.headers = {"Authorization": f"Token {token}"}

    def rows_by_student(self, origin: str, path: str) -> Counter[str]:
        """How many rows each student has in a list, page by page."""
        found: Counter[str] = Counter()
        url: str | None = f"{origin}{path}?page_size=1000"
        while url:
            page = self._get(url)
            found.update(row["student"] for row in page["results"])
            url = page["next"]
        return found

    def count(self, origin: str, path: str) -> int:
        """How many rows a list has."""
        return int(self._get(f"{origin}{path}?page_size=1")["count"])

    def events(self, origins: Iterable[str]) -> Counter[str]:
        """What the processes counted, together."""
        together: Counter[str] = Counter()
        for origin in origins:
            together.update(self._get(f"{origin}/demo/counts/")["counts"])
        return together

    def _get(self, url: str) -> dict[str, Any]:
        reply = requests.get(url, headers=self.headers, timeout=30)
        reply.raise_for_status()
        document: dict[str, Any] = reply.json()
        return document


@dataclass(frozen=True)
class Half:
    """One half of the demo, counted."""

    plan: Plan
    tally: Tally
    #: Rows by kind and student.
    rows: dict[str, Counter[str]]
    events: Counter[str]

    @property
    def duplicates(self) -> int:
        """Rows of all three kinds beyond each student's first."""
        return duplicates(self.rows)

    @property
    def exact(self) -> bool:
        """Whether each student has exactly one row of each kind, and nobody else has any."""
        return one_each(self.rows, (visit.student for visit in self.plan.visits))

    @property
    def contradicted(self) -> int:
        """Students whose clients were told different things."""
        return sum(len(told) > 1 for told in self.tally.answers.values())

    def as_json(self) -> dict[str, Any]:
        """The figures of either half."""
        return {
            "students": len(self.plan.visits),
            "requests": self.tally.requests,
            **{kind: rows.total() for kind, rows in self.rows.items()},
            "duplicates": self.duplicates,
        }

    def layers_as_json(self) -> dict[str, Any]:
        """What the layers did, and how fast a replay was to its client."""
        p50, p95 = percentiles(self.tally.replays_ms)
        return {
            "replayed_from_cache": self.events["replayed.cache"],
            "replayed_from_ledger": self.events["replayed.ledger"],
            "caught_by_constraint": self.events["constraint_caught"],
            "p50_ms_replay": p50,
            "p95_ms_replay": p95,
        }


@dataclass(frozen=True)
class Imported:
    """The section import, counted."""

    section: Section
    seen: Seen
    #: Rows by kind and student, of all who did not come to the window.
    rows: dict[str, Counter[str]]
    #: Seats that roster was asked for again, under the key of the first time.
    redone: int

    @property
    def duplicates(self) -> int:
        """Rows of all three kinds beyond each student's first."""
        return duplicates(self.rows)

    @property
    def exact(self) -> bool:
        """Whether one job has succeeded, every client was told the same, and each student has
        exactly one row of each kind."""
        seen = self.seen
        return (
            (len(seen.jobs), len(seen.finals), len(seen.refusals)) == (1, 1, 0)
            and seen.document["status"] == "succeeded"
            and one_each(self.rows, self.section.students)
        )

    def as_json(self) -> dict[str, Any]:
        """The figures."""
        return {
            "students": len(self.section.students),
            "requests": self.seen.requests,
            **{kind: rows.total() for kind, rows in self.rows.items()},
            "duplicates": self.duplicates,
            "retries_while_running": self.seen.retries,
            "in_at_kill": self.seen.in_at_kill,
            "redone_after_kill": self.redone,
            "attempts": self.seen.document.get("attempts"),
            "seconds": round(self.seen.took, 1),
        }


def duplicates(rows: dict[str, Counter[str]]) -> int:
    """Rows of all kinds beyond each student's first."""
    return sum(each.total() - len(each) for each in rows.values())


def one_each(rows: dict[str, Counter[str]], students: Iterable[str]) -> bool:
    """Whether each student has exactly one row of each kind, and nobody else has any."""
    wanted = Counter(students)
    return all(each == wanted for each in rows.values())


def percentiles(values: list[float]) -> tuple[float | None, float | None]:
    """The 50th and the 95th; None where there is nothing to tell from."""
    if len(values) < 2:
        return (round(values[0], 1),) * 2 if values else (None, None)
    return round(median(values), 1), round(quantiles(values, n=20, method="inclusive")[-1], 1)
