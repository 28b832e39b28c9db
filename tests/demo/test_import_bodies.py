"""Bodies that the section import refuses, before there is a job."""

from typing import Any

import pytest

from tests.demo.conftest import Sample

PATH = "/api/section-imports/"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"students": ["s-1"]}, {"course": ["Name the course by its code, such as CS101."]}),
        ({"course": "CS101"}, {"students": ["Send the students as a list, such as"]}),
        ({"course": "CS101", "students": "s-1"}, {"students": ["Send the students as a list"]}),
        ({"course": "CS101", "students": []}, {"students": ["Send at least one student."]}),
        (
            {"course": "NO1", "students": ["s-1"]},
            {"course": ["There is no course NO1: send the code of one that there is."]},
        ),
        (
            {"course": "CS101", "students": ["s-1", "s-2", "s-1"]},
            {"students": ["Name each student once; named more often: s-1."]},
        ),
        (
            {"course": "CS101", "students": [f"s-{number}" for number in range(1001)]},
            {"students": ["Send at most 1000 students: split a larger section"]},
        ),
        (
            {"course": "CS101", "students": ["s-1", " ", None, ["s-2"], "x" * 65]},
            {
                "students": {
                    "1": ["This student has no name: leave the entry out."],
                    "2": ["This student has no name: leave the entry out."],
                    "3": ["Send each student's name as text, such as s-1."],
                    "4": ["Send names of at most 64 characters."],
                }
            },
        ),
    ],
)
def test_what_is_refused_at_once(
    sample: Sample, key: str, body: dict[str, Any], told: dict[str, Any]
) -> None:
    """In words that say what to send instead; nothing is kept, and the key is free."""
    for _ in range(2):
        refused = sample.post("enrollment", body, key, path=PATH)
        assert refused.status_code == 400
        assert begins(refused.json(), told), refused.text
    assert sample.imports(idempotency_key=key) == []


def begins(said: Any, wanted: Any) -> bool:
    """Whether it has the same fields, and each text begins as wanted."""
    if isinstance(wanted, str):
        return str(said).startswith(wanted)
    if isinstance(wanted, list):
        return len(said) == len(wanted) and all(map(begins, said, wanted))
    return said.keys() == wanted.keys() and all(begins(said[name], wanted[name]) for name in wanted)
