"""The tree that child keys make: who called under a key, and what was called under it in turn.

A child's key is `{parent}-{name}`. Its caller is narrowed by the parent's scope, where the parent's
execution has sent it (Idempotency-Scope), which is certain; or it is the parent's own, which is a
matter of names only. Both are looked up by the index on keys, a bounded number of rows at a time,
of which those of other callers are left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.db.models import QuerySet

from idempotency.admin.stages import STAGES, stage_of
from idempotency.identity import narrowed
from idempotency.keys import child_beginnings
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Identity

Records = QuerySet[IdempotencyRecord]

#: Ancestors that are looked for; services rarely call each other deeper.
GENERATIONS: Final = 8
#: Rows that are read in each direction.
KIN: Final = 200

_SHOWN: Final = ("scope", "key", "operation", "state", "lease_until", "expires_at", "purge_at")


@dataclass
class Kin:
    """A record in the tree."""

    record: IdempotencyRecord
    #: Its stage in words.
    stage: Any
    is_itself: bool = False
    children: "list[Kin]" = field(default_factory=list)


@dataclass(frozen=True)
class Family:
    """A record's place among its kin."""

    #: The farthest ancestor that is known; the record itself is below it, or is it.
    root: Kin
    #: The key that called under this one, where there is no record of it in this ledger.
    missing_parent: str
    #: There may be more children than were read.
    is_cut: bool

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody but the record itself."""
        return not self.root.children and not self.missing_parent


def family_of(record: IdempotencyRecord, now: datetime, *, using: str | None) -> Family:
    """The kin of a record. At most two statements; one more for a key near the longest."""
    records = IdempotencyRecord.objects.using(using).only(*_SHOWN)
    itself = _kin(record, now)
    itself.is_itself = True
    read, is_cut = _below(record, records)
    _attach(itself, read, now)
    root = itself
    above = _above(record, records)
    while (parent := _parent_of(root.record, above)) is not None:
        parent_kin = _kin(parent, now)
        parent_kin.children.append(root)
        root = parent_kin
    missing = record.parent_key if root is itself else ""
    return Family(root, missing, is_cut)


def _kin(record: IdempotencyRecord, now: datetime) -> Kin:
    return Kin(record, STAGES[stage_of(record, now)].label)


def _above(record: IdempotencyRecord, records: Records) -> list[IdempotencyRecord]:
    """Whoever has a key that this one may be derived from."""
    keys = list(_ancestors(record.key))
    return list(records.filter(key__in=keys).order_by("key", "id")[:KIN]) if keys else []


def _below(record: IdempotencyRecord, records: Records) -> tuple[list[IdempotencyRecord], bool]:
    """Whatever has a key that begins with this one's, as children and theirs do."""
    read: list[IdempotencyRecord] = []
    is_cut = False
    for beginning in child_beginnings(record.key):
        # "." follows "-": a range of bytes, which is what the index is sorted by.
        found = records.filter(key__gt=f"{beginning}-", key__lt=f"{beginning}.")
        rows = list(found.order_by("key")[: KIN + 1])
        is_cut = is_cut or len(rows) > KIN
        read += rows[:KIN]
    return read, is_cut


def _attach(root: Kin, read: list[IdempotencyRecord], now: datetime) -> None:
    """Put each record below its parent; those whose parent is not there are not of the tree."""
    known = {root.record.pk: root}
    by_beginning: dict[str, list[IdempotencyRecord]] = {}

    def add(record: IdempotencyRecord) -> None:
        for beginning in child_beginnings(record.key):
            by_beginning.setdefault(beginning, []).append(record)

    add(root.record)
    for record in sorted(read, key=lambda each: (len(each.key), each.key, each.pk)):
        nearest = [each for key in _ancestors(record.key) for each in by_beginning.get(key, ())]
        parent = _parent_of(record, nearest)
        if parent is not None:
            known[record.pk] = _kin(record, now)
            known[parent.pk].children.append(known[record.pk])
            add(record)


def _parent_of(
    child: IdempotencyRecord, candidates: Iterable[IdempotencyRecord]
) -> IdempotencyRecord | None:
    """The nearest that is certain, for a call within a step skips a generation; else one that is a
    parent by name."""
    caller = _caller(child)
    beginning = child.key.rpartition("-")[0]
    certain = [each for each in candidates if caller.endswith(_narrowing(each))]
    if certain:
        return max(certain, key=lambda each: len(each.key))
    named = (
        each
        for each in candidates
        if _caller(each) == caller and beginning in child_beginnings(each.key)
    )
    return next(named, None)


def _ancestors(key: str) -> Iterator[str]:
    """The keys that a key may be derived from, the nearest first."""
    for _generation in range(GENERATIONS):
        key = key.rpartition("-")[0]
        if not key:
            return
        yield key


def _narrowing(parent: IdempotencyRecord) -> str:
    return narrowed(Identity(parent.scope, parent.key).scope_digest)


def _caller(record: IdempotencyRecord) -> str:
    return record.scope.rpartition("/")[0]
