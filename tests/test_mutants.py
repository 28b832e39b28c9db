"""The list of guards follows the code, and nothing but a true catch counts as one."""

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mutants.catalogue import MUTANTS
from mutants.mutant import Edit, Misplaced, Mutant
from mutants.trial import Red, Run, Tree
from mutants.verdict import Caught, Survived, Unproven, judged, of, prove, unfit

ROOT = Path(__file__).resolve().parent.parent

each = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)

#: What issue 4 names, by the names in the list.
NAMED = {
    "unique constraint": "unique-constraint",
    "NOT EXISTS": "not-exists",
    "race closure": "on-conflict",
    "fence": "fence-at-the-finish",
    "state in the fence": "state-at-the-finish",
    "HMAC": "mac-of-entries",
    "caller in the scope": "caller-in-the-scope",
    "publish token": "publish-token",
    "durable": "durable",
    "needs_rollback check": "needs-rollback",
    "fingerprint check": "fingerprint",
    "job fence": "job-fence",
    "outbox": "outbox",
    "hold on exceptions": "hold-on-exceptions",
}


# The list


@each
def test_a_guard_stands_once_in_the_code_and_the_code_parses_without_it(mutant):
    changed = mutant.texts(ROOT)
    assert changed
    for path, text in changed.items():
        assert text != path.read_text()
        ast.parse(text)


@each
def test_the_tests_that_are_expected_to_catch_it_are_there(mutant):
    assert mutant.caught_by
    for test in mutant.caught_by:
        file, *_, function = test.split("::")
        assert f"def {function}(" in (ROOT / file).read_text()


@each
def test_it_says_what_is_lost_in_a_sentence(mutant):
    assert mutant.loses.endswith(".")
    assert mutant.loses[0].isupper()


def test_names_are_unique_and_every_guard_that_was_promised_is_there():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert set(NAMED.values()) <= set(names)


# Its proof

MUTANT = Mutant(
    "limit", "The limit is lost.", (Edit("code.py", "LIMIT = 3", "LIMIT = 4"),), ("t.py::test_it",)
)
GREEN = Run(green=frozenset({"t.py::test_it"}))


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "code.py").write_text("LIMIT = 3\n")
    return Tree(tmp_path)


@dataclass(frozen=True)
class Planned(Tree):
    """Runs no tests: gives what was planned, and notes what the code was meanwhile."""

    runs: list[Run] = field(default_factory=list)
    asked: list[tuple] = field(default_factory=list)

    def run(self, tests, *, limit, all_of_them=False):
        self.asked.append((tests, (self.root / "code.py").read_text()))
        return self.runs.pop(0)


@pytest.fixture
def plan(tree):
    return lambda *runs: Planned(tree.root, runs=list(runs))


def red(test="t.py::test_it", *, by_itself=True):
    return Run(red=(Red(test, "AssertionError: 4", by_itself),))


@pytest.mark.parametrize("text", ["", "LIMIT = 3\nLIMIT = 3\n"])
def test_a_place_that_is_missing_or_there_twice_is_an_error(tree, text):
    (tree.root / "code.py").write_text(text)
    with pytest.raises(Misplaced, match=r"code\.py"), tree.without(MUTANT):
        pass


def test_the_guard_is_back_after_the_block(tree):
    with tree.without(MUTANT):
        assert (tree.root / "code.py").read_text() == "LIMIT = 4\n"
    assert (tree.root / "code.py").read_text() == "LIMIT = 3\n"


def test_an_expected_test_that_goes_red_has_caught_it(plan):
    planned = plan(red())
    assert prove(MUTANT, planned, GREEN) == Caught("t.py::test_it", "AssertionError: 4")
    assert planned.asked == [(MUTANT.caught_by, "LIMIT = 4\n")]


def test_another_test_may_catch_it_too_if_it_is_green_with_the_guard(plan):
    planned = plan(GREEN, red("u.py::test"), Run(frozenset({"u.py::test"})))
    assert prove(MUTANT, planned, GREEN) == Caught("u.py::test", "AssertionError: 4")
    assert [code for _, code in planned.asked] == ["LIMIT = 4\n", "LIMIT = 4\n", "LIMIT = 3\n"]


def test_another_test_that_is_red_with_the_guard_has_caught_nothing(plan):
    found = prove(MUTANT, plan(GREEN, red("u.py::test"), red("u.py::test")), GREEN)
    assert isinstance(found, Unproven)


def test_without_a_red_test_it_has_survived(plan):
    assert prove(MUTANT, plan(GREEN, GREEN), GREEN) == Survived()


@pytest.mark.parametrize("control", [red(), Run(), Run(frozenset({"t.py::test_it_not"}))])
def test_an_expected_test_that_is_red_or_absent_with_the_guard_proves_nothing(plan, control):
    assert isinstance(prove(MUTANT, plan(), control), Unproven)


def test_a_test_that_cannot_be_collected_or_imported_is_no_catch():
    found = judged(red(by_itself=False), lambda test: True)
    assert isinstance(found, Unproven)


def test_all_parameters_of_an_expected_test_must_be_green():
    half = Run(frozenset({"t.py::test_it[1]"}), (Red("t.py::test_it[2]", "no", True),))
    assert isinstance(unfit(MUTANT, half), Unproven)
    assert unfit(MUTANT, Run(frozenset({"t.py::test_it[1]", "t.py::test_it[2]"}))) is None


def test_a_name_stands_for_its_parameters_and_members_only():
    tests = ["t.py::test", "t.py::test[1]", "t.py::test_it", "t.py::test::x"]
    assert of("t.py::test", tests) == ["t.py::test", "t.py::test[1]", "t.py::test::x"]
