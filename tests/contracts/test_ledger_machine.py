"""The ledger beside a model of it: whatever happens in whatever order, both say the same."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from idempotency import settlement
from idempotency.exceptions import LeaseLost
from idempotency.layers import leases, ledger
from idempotency.layers.retention import purge
from idempotency.models import IdempotencyRecord, State
from idempotency.outcomes import (
    Abandoned,
    Candidate,
    Claimed,
    Expired,
    Finished,
    Identity,
    InFlight,
    Reply,
)
from tests.contracts.test_ledger import FINGERPRINT

pytestmark = pytest.mark.django_db(transaction=True)

SCOPE = "user:1/app.View.create"
#: Keys that only a byte-exact comparison keeps apart.
KEYS = st.sampled_from(["Abc", "Abc", "Abc", "aBC", "Abc "])
HOUR = 3600.0


@dataclass
class Row:
    """What the model knows of one key: free, running, held (running, and left to an
    operator if its owner dies), finished, expired, abandoned or unknown."""

    stands: str = "free"
    body: bytes = b""
    #: The highest token that was ever handed out while the row stood.
    token: int = 0
    #: Its lease is over.
    lapsed: bool = False
    #: Claims that somebody may still believe to have.
    stale: list[Claimed] = field(default_factory=list)


class Ledger(RuleBasedStateMachine):
    """Rules are what requests, operators, clocks and purges do; each checks what it is told."""

    @initialize()
    def begin(self) -> None:
        IdempotencyRecord.objects.all().delete()
        self.rows: dict[str, Row] = {}
        self.held: dict[str, Claimed] = {}
        self.replies = 0

    def row(self, key: str) -> Row:
        return self.rows.setdefault(key, Row())

    @invariant()
    def it_tells_how_every_key_stands(self) -> None:
        for key in self.rows:
            self.look(key)

    def look(self, key: str) -> None:
        """A claim that is rolled back tells how the key stands, and changes nothing."""
        with transaction.atomic():
            verdict = ledger.claim(_asked(key), using="default")
            transaction.set_rollback(True)
        row = self.row(key)
        match row.stands:
            case "free":
                assert isinstance(verdict, Claimed)
                assert verdict.attempt > row.token or not _there(key)
            case "finished":
                assert isinstance(verdict, Finished)
                assert verdict.reply.body == row.body
            case "expired":
                assert isinstance(verdict, Expired)
            case "running" if not row.lapsed:
                assert isinstance(verdict, InFlight)
            case "held" if not row.lapsed:
                assert isinstance(verdict, InFlight)
            case "running" | "abandoned":
                assert isinstance(verdict, Abandoned)
                assert not verdict.held
            case "held" | "unknown":
                assert isinstance(verdict, Abandoned)
                assert verdict.held

    @rule(key=KEYS)
    def execute(self, key: str) -> None:
        """Claim, finish and commit, where the key is free."""
        if self.row(key).stands != "free":
            return
        with transaction.atomic():
            claimed = self._claimed(key, ledger.claim(_asked(key), using="default"))
            self._finish(key, claimed)

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        """Claim and finish, and roll back: as if it had never been."""
        if self.row(key).stands != "free":
            return
        with transaction.atomic():
            claimed = ledger.claim(_asked(key), using="default")
            assert isinstance(claimed, Claimed)
            ledger.finish(claimed, _asked(key), Reply(201, (), b"undone"), using="default")
            transaction.set_rollback(True)

    @invariant()
    def whoever_lost_its_claim_changes_nothing(self) -> None:
        for key, row in self.rows.items():
            self.finish_late(key, row.stale[-2:])

    def finish_late(self, key: str, stale: list[Claimed]) -> None:
        for claimed in stale:
            before = _there(key)
            with pytest.raises(LeaseLost), transaction.atomic():
                ledger.finish(claimed, _asked(key), Reply(201, (), b"stale"), using="default")
            assert not leases.renew(claimed, HOUR, using="default")
            assert not leases.leave(claimed, State.RELEASED, HOUR, using="default")
            assert _there(key) == before

    # With leases

    @precondition(lambda self: connection.vendor != "sqlite")
    @rule(key=KEYS, holds=st.booleans())
    def lease(self, key: str, holds: bool) -> None:
        row = self.row(key)
        if row.stands != "free":
            return
        with transaction.atomic():
            verdict = ledger.claim(_asked(key, lease=HOUR, holds=holds), using="default")
        self.held[key] = self._claimed(key, verdict)
        row.stands, row.lapsed = ("held" if holds else "running"), False

    @rule(key=KEYS)
    def finish(self, key: str) -> None:
        """The owner finishes; late is not lost, as long as nobody has taken over."""
        if key in self.held:
            with transaction.atomic():
                self._finish(key, self.held.pop(key))

    @rule(key=KEYS)
    def lapse(self, key: str) -> None:
        """The database's clock passes the lease's end."""
        if key in self.held:
            _record(key).update(lease_until=timezone.now() - timedelta(seconds=1))
            self.row(key).lapsed = True

    @rule(key=KEYS, state=st.sampled_from([State.RELEASED, State.ABANDONED, State.UNKNOWN]))
    def leave(self, key: str, state: State) -> None:
        if key in self.held:
            assert leases.leave(self.held[key], state, HOUR, using="default")
            self._lose(key)
            self.row(key).stands = "free" if state == State.RELEASED else str(state)

    @precondition(lambda self: connection.vendor != "sqlite")
    @rule(key=KEYS)
    def take_over(self, key: str) -> None:
        row = self.row(key)
        if not (row.stands == "abandoned" or (row.stands == "running" and row.lapsed)):
            return
        asked = _asked(key, lease=HOUR)
        with transaction.atomic():
            verdict = ledger.claim(asked, using="default")
            assert isinstance(verdict, Abandoned)
            taken = ledger.take_over(asked, verdict, using="default")
        self._lose(key)
        self.held[key] = self._claimed(key, taken)
        row.stands, row.lapsed = "running", False

    @rule(key=KEYS, happened=st.booleans())
    def settle(self, key: str, happened: bool) -> None:
        """An operator's verdict."""
        row = self.row(key)
        can = row.stands in ("abandoned", "unknown") or (key in self.held and row.lapsed)
        if happened:
            settled = settlement.it_happened(SCOPE, key, status=200, body={"by": "operator"})
            row.body = b'{"by":"operator"}' if settled else row.body
        else:
            settled = settlement.it_never_happened(SCOPE, key)
        assert settled == can
        if settled:
            self._lose(key)
            row.stands = "finished" if happened else "free"

    # With time

    @rule(key=KEYS)
    def expire(self, key: str) -> None:
        if self.row(key).stands == "finished":
            _record(key).update(expires_at=timezone.now() - timedelta(seconds=1))
            self.row(key).stands = "expired"

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        """`purge_at` passes; what is unsettled has none."""
        if self.row(key).stands == "expired":
            _record(key).update(purge_at=timezone.now() - timedelta(seconds=1))
            self.row(key).stands = "free"

    @rule()
    def sweep(self) -> None:
        """A purge deletes what is forgotten, and nothing that says anything."""
        telling = {key for key, row in self.rows.items() if row.stands != "free"}
        purge()
        assert telling <= set(IdempotencyRecord.objects.values_list("key", flat=True))
        for key, row in self.rows.items():
            if not _there(key):  # the token goes with the row
                row.token = 0
                row.stale.clear()

    @invariant()
    def one_row_a_key_and_no_token_goes_back(self) -> None:
        found = IdempotencyRecord.objects.values_list("key", "attempt")
        assert len(found) == len({key for key, _ in found})
        for key, attempt in found:
            assert attempt >= self.row(key).token

    def _claimed(self, key: str, verdict: Any) -> Claimed:
        assert isinstance(verdict, Claimed)
        row = self.row(key)
        assert verdict.attempt > row.token
        row.token = verdict.attempt
        return verdict

    def _finish(self, key: str, claimed: Claimed) -> None:
        self.replies += 1
        row = self.row(key)
        row.stands, row.body, row.lapsed = "finished", b"%d" % self.replies, False
        ledger.finish(claimed, _asked(key), Reply(201, (), row.body), using="default")

    def _lose(self, key: str) -> None:
        row = self.row(key)
        if key in self.held:
            row.stale.append(self.held.pop(key))
        row.lapsed = False


def _asked(key: str, **changes: Any) -> Candidate:
    return Candidate(
        identity=Identity(SCOPE, key),
        operation="app.View.create",
        fingerprint=FINGERPRINT,
        parent_key="",
        ttl=HOUR,
        tombstone=HOUR,
        silence=60.0,
        **changes,
    )


def _record(key: str) -> Any:
    return IdempotencyRecord.objects.filter(scope=SCOPE, key=key)


def _there(key: str) -> list[tuple[Any, ...]]:
    return [tuple(map(repr, row)) for row in _record(key).values_list("state", "attempt", "status")]


def test_the_ledger_does_as_its_model() -> None:
    run_state_machine_as_test(
        Ledger, settings=settings(max_examples=25, stateful_step_count=40, deadline=None)
    )
