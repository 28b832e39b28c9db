"""One guard, and how it is taken away."""

from dataclasses import dataclass
from pathlib import Path


class Misplaced(Exception):
    """The place of a guard is not in the code, or not once: the list has to follow the code."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A short text that stands exactly once in its file, and what takes its place."""

    file: str
    before: str
    after: str

    def applied(self, text: str) -> str:
        """The file's text without the guard. Raises Misplaced."""
        found = text.count(self.before)
        if found != 1:
            raise Misplaced(f"{self.file} has {self.before!r} {found} times, not once")
        return text.replace(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The code without one guard. Where a guard has two halves, both go."""

    name: str
    #: What is lost without the guard, in one sentence.
    loses: str
    edits: tuple[Edit, ...]
    #: Node ids of the tests that are expected to notice, the most telling first.
    caught_by: tuple[str, ...]

    def texts(self, root: Path) -> dict[Path, str]:
        """The changed files' new texts. Raises Misplaced."""
        changed: dict[Path, str] = {}
        for edit in self.edits:
            path = root / edit.file
            changed[path] = edit.applied(changed.get(path) or path.read_text())
        return changed
