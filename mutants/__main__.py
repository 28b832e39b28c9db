"""`python -m mutants`, which is `make mutants`. Exits 1 where a guard is not proven."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from enrollment_demo.servers import Postgres, Redis
from mutants import verdict
from mutants.catalogue import MUTANTS
from mutants.mutant import Mutant
from mutants.trial import Run, Tree, Untried
from mutants.verdict import Caught, Survived, Unproven, Verdict

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Prove the chosen guards; 0 where a test has caught every one of them."""
    options = _parser().parse_args()
    chosen = [each for each in MUTANTS if not options.only or each.name in options.only]
    if options.list:
        for mutant in chosen:
            _say(f"{mutant.name:<{_WIDTH}} {mutant.loses}")
        return 0
    began = time.monotonic()
    with _servers() as environment, tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        tree = Tree.copied(ROOT, Path(directory).resolve() / "tree", environment)
        try:
            control = _control(chosen, tree)
        except Untried as error:
            _say(f"The tests could not be run with all guards in place: {error}")
            return 1
        _say(f"{len(control.green)} tests green with all guards in place", since=began)
        caught = 0
        for mutant in chosen:
            started = time.monotonic()
            found = verdict.prove(mutant, tree, control)
            caught += isinstance(found, Caught)
            _say(f"{mutant.name:<{_WIDTH}} {_told(mutant, found)}", since=started)
    _say(f"{caught} of {len(chosen)} guards proven", since=began)
    return 0 if caught == len(chosen) else 1


def _control(chosen: Sequence[Mutant], tree: Tree) -> Run:
    """One run of all expected tests with nothing taken away."""
    tests = dict.fromkeys(test for mutant in chosen for test in mutant.caught_by)
    return tree.run(list(tests), limit=verdict.WIDER_LIMIT, all_of_them=True)


def _told(mutant: Mutant, found: Verdict) -> str:
    match found:
        case Caught(test, says):
            expected = any(verdict.of(named, [test]) for named in mutant.caught_by)
            return (
                f"{'' if expected else 'not by its own test, but '}caught by {test} ({says[:80]})"
            )
        case Survived():
            return f"SURVIVED: {mutant.loses}"
        case Unproven(why):
            return f"UNPROVEN: {why}"


@contextmanager
def _servers() -> Iterator[Mapping[str, str]]:
    """One of each for all runs, by the variables that tests.plugin reads."""
    # Nothing here outlives a power cut, and every test empties its tables.
    with Postgres(options={"fsync": "off"}) as postgres, Redis() as rooms, Redis() as broker:
        yield {
            "TEST_DATABASE": "postgres",
            "TEST_POSTGRES_URL": postgres.url(),
            "TEST_REDIS_URL": rooms.url(),
            "AMQP_URL": broker.url(),
        }


def _say(line: str, *, since: float | None = None) -> None:
    took = "" if since is None else f" {time.monotonic() - since:.1f} s"
    sys.stdout.write(f"{line}{took}\n")
    sys.stdout.flush()


_WIDTH = max(len(mutant.name) for mutant in MUTANTS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mutants",
        description="Takes away one guard at a time, in a copy; the tests must notice each.",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[mutant.name for mutant in MUTANTS],
        help="these guards only",
    )
    parser.add_argument("--list", action="store_true", help="say what each guard is for, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
