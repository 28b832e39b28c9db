"""The import that belongs to a plan, and when it counts as exact."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from enrollment_demo.demo.asking import Reply
from enrollment_demo.demo.count import ROWS, Imported
from enrollment_demo.demo.plan import draw
from enrollment_demo.demo.section import Seen, section_of


@pytest.mark.parametrize(("visitors", "students"), [(1, 40), (90, 200), (450, 1000), (999, 1000)])
def test_its_size_follows_the_window(visitors: int, students: int) -> None:
    """Never so small that it is over at once, nor larger than the service takes."""
    assert len(set(section_of(draw(visitors, 1)).students)) == students


def test_a_seed_makes_the_section() -> None:
    """Its key and students are nobody else's."""
    plan = draw(60, 7)
    section = section_of(plan)
    assert section == section_of(plan)
    assert section.key != section_of(draw(60, 8)).key
    assert section.key not in {visit.key for visit in plan.visits}
    assert not {visit.student for visit in plan.visits}.intersection(section.students)


def imported(*replies: Reply) -> Imported:
    """As its clients were told, with one row of each kind for each student."""
    section, seen = section_of(draw(1, 1)), Seen()
    for reply in replies:
        seen.reply(reply)
        if reply.final:
            seen.done(reply)
    return Imported(section, seen, {kind: Counter(section.students) for kind in ROWS}, redone=0)


def told(status: int, job: str, state: str) -> Reply:
    return Reply(status, None, False, json.dumps({"id": job, "status": state}).encode())


WAIT, DONE = told(202, "a", "running"), told(200, "a", "succeeded")


def test_exact() -> None:
    """One job, one final reply, a row of each kind for each; the first request is no retry."""
    all_well = imported(WAIT, WAIT, DONE, DONE)
    assert all_well.exact
    assert all_well.seen.retries == 1


@pytest.mark.parametrize(
    "replies",
    [
        (WAIT, told(200, "b", "succeeded"), DONE),
        (told(200, "a", "failed"),),
        (DONE, Reply(200, None, False, DONE.body + b" ")),
        (DONE, Reply(409, None, False, b"{}")),
        (WAIT,),
    ],
)
def test_what_clients_were_told_can_make_it_inexact(replies: tuple[Reply, ...]) -> None:
    """A second job, a failed one, two final replies, a refusal, none at all."""
    assert not imported(*replies).exact


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_too_few_or_too_many_makes_it_inexact(kind: str) -> None:
    """Of whichever kind, and whoever's."""
    well = imported(DONE)
    for who, rows in (("i-0001", 0), ("i-0001", 2), ("stranger", 1)):
        counted = Counter({**well.rows[kind], who: rows})
        assert not replace(well, rows=well.rows | {kind: counted}).exact
