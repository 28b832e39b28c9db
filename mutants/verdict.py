"""What a red test, or none, says about a guard."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mutants.mutant import Mutant
from mutants.trial import Run, Tree, Untried

#: Where to look on when the expected tests have noticed nothing.
WIDER: Final = ("tests/protocol", "tests/contracts", "tests/http", "tests/faults")
#: Seconds for the expected tests; many times what they take.
LIMIT: Final = 180.0
#: Seconds for a run of whole suites.
WIDER_LIMIT: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Caught:
    """A test that is green with the guard is red without it."""

    test: str
    says: str


@dataclass(frozen=True, slots=True)
class Survived:
    """No test needs the guard."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """Nothing can be said: the tests are red, or cannot be run, for another reason."""

    why: str


Verdict = Caught | Survived | Unproven


def of(named: str, tests: Iterable[str]) -> list[str]:
    """The tests that a node id stands for: itself, or with its parameters."""
    return [test for test in tests if test == named or test.startswith((f"{named}[", f"{named}::"))]


def unfit(mutant: Mutant, control: Run) -> Unproven | None:
    """Why the expected tests could prove nothing: they are not all there, or red as it is."""
    for named in mutant.caught_by:
        red = [each for each in control.red if of(named, [each.test])]
        if red:
            return Unproven(f"{red[0].test} is red with the guard: {red[0].says}")
        if not of(named, control.green):
            return Unproven(f"{named} did not run with the guard")
    return None


def judged(run: Run, is_green: Callable[[str], bool]) -> Verdict:
    """`is_green` tells whether a test passes with the guard."""
    for red in run.red:
        if not red.by_itself:
            return Unproven(f"{red.test} could not be run without the guard: {red.says}")
        if not is_green(red.test):
            return Unproven(f"{red.test} is red with the guard as well")
        return Caught(red.test, red.says)
    return Survived()


def prove(mutant: Mutant, tree: Tree, control: Run) -> Verdict:
    """Take the guard away: the expected tests must go red, or at least some other."""
    verdict: Verdict | None = unfit(mutant, control)
    if verdict is not None:
        return verdict
    try:
        with tree.without(mutant):
            run = tree.run(mutant.caught_by, limit=LIMIT)
        verdict = judged(run, control.green.__contains__)
        if not isinstance(verdict, Survived):
            return verdict
        with tree.without(mutant):
            run = tree.run(WIDER, limit=WIDER_LIMIT)
        return judged(run, lambda test: _is_green(test, tree))
    except Untried as error:
        return Unproven(str(error))


def _is_green(test: str, tree: Tree) -> bool:
    return test in tree.run([test], limit=LIMIT).green
