"""The stages of a record in words: its state, and how its times stand to this moment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext_lazy as _

from idempotency.models import IdempotencyRecord, State


@dataclass(frozen=True)
class Stage:
    """A stage as operators read it."""

    label: Any
    #: What became of the key, and what a retry gets.
    meaning: Any


STAGES = {
    "running": Stage(_("running"), _("An execution has the key; retries wait for its reply.")),
    "lapsed": Stage(
        _("lease over"),
        _(
            "The execution gave no sign of life in time. The next retry or sweep takes the key"
            " away, or leaves it to an operator where its policy holds."
        ),
    ),
    "job": Stage(_("job"), _("A job stands for the key; retries get the job's status.")),
    "released": Stage(
        _("released"), _("The execution was undone; the key is free. Only its token is remembered.")
    ),
    "abandoned": Stage(
        _("abandoned"),
        _(
            "The execution ended without an outcome. The same request takes the key over, and goes"
            " on after the last finished step."
        ),
    ),
    "unknown": Stage(
        _("outcome unknown"),
        _("What the execution did outside is not known. Retries are refused until it is settled."),
    ),
    "replayable": Stage(_("replayable"), _("The reply is stored; retries get it again.")),
    "tombstone": Stage(_("tombstone"), _("The reply is replayed no more; retries are refused.")),
    "forgotten": Stage(_("forgotten"), _("The key may be used anew; a purge deletes the record.")),
}


def stage_of(record: IdempotencyRecord, now: datetime) -> str:
    """Which of the stages a record is in."""
    if record.purge_at is not None and record.purge_at <= now:
        return "forgotten"
    match record.state:
        case State.RUNNING:
            lapsed = record.lease_until is not None and record.lease_until <= now
            return "lapsed" if lapsed else "running"
        case State.FINISHED:
            expired = record.expires_at is not None and record.expires_at <= now
            return "tombstone" if expired else "replayable"
        case state:
            return str(state)
