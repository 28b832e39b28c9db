"""What the pages name exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: A test as a page names it: file, perhaps class, function.
NAMED = re.compile(r"`(tests/[\w/]+\.py)::((?:\w+::)?\w+)`")


def defined(path: Path) -> set[str]:
    """The tests of a file, with their classes."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        names.add(getattr(node, "name", ""))
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{getattr(inner, 'name', '')}" for inner in node.body}
    return names


def named(page: Path) -> list[tuple[str, str]]:
    return NAMED.findall(page.read_text())


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    missing = [f"{file}::{name}" for file, name in named(page) if name not in defined(ROOT / file)]
    assert missing == []


def test_the_protocols_page_names_tests_for_every_promise() -> None:
    text = Path(ROOT, "docs/protocol.md").read_text()
    promises = re.split(r"^### \d\. ", text, flags=re.MULTILINE)[1:]
    assert len(promises) == 6
    assert all(len(NAMED.findall(promise)) >= 3 for promise in promises)
