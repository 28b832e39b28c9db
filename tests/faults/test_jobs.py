"""Jobs whose workers are killed, stopped, timed out and sent away: real processes, real signals.

After each, the effects are there once or nobody claims to know, the client is told the truth, and
one sweep after the end of its lease no job waits for a process that is gone.
"""

from datetime import timedelta
from functools import partial

import pytest
from celery.signals import before_task_publish
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from idempotency.exceptions import OutcomeUnknown
from idempotency.jobs import cancel_job, start_job
from idempotency.layers.jobs import MAX_ATTEMPTS
from idempotency.models import Job, JobStatus, State
from tests.app.models import Booking
from tests.concurrent import elsewhere, until
from tests.jobs import Started, booked, overdue, run, sweep, swept_until
from tests.worked import tasks, worker
from tests.worked.card import card_network
from tests.worked.clock import ahead

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]

#: Seconds, the shortest there is.
LEASE = 1.0


@pytest.fixture
def log(tmp_path):
    return tmp_path / "worker.log"


@pytest.fixture
def start(ask, broker, redis_db):
    """Starts a job as a client does; its message is with the broker."""

    def start(task, *, on_abandoned="retry", **arguments):
        policy = {"lease": LEASE, "on_abandoned": on_abandoned}
        return Started(partial(ask, **policy), lambda: start_job(task, **arguments))

    return start


def one_sweep():
    """What one sweep does, as soon as the only job's lease is over."""
    until(lambda: overdue() == 1)
    return sweep()


def ended(*jobs):
    """Wait until they have ended; what their documents say."""
    until(lambda: all(job.ended for job in jobs))
    return [job.status for job in jobs]


def swept(*jobs):
    """The same where the broker hands messages out again: it may be faster than the sweep."""
    swept_until(lambda: all(job.ended for job in jobs))
    return ended(*jobs)


class TestKilled:
    def test_at_any_moment_a_child_leaves_its_effects_once(self, start, gates, log):
        """Before them, behind them, in the commit, and before its message is acknowledged."""
        moments = {
            "before": tasks.book,
            "effects": tasks.book,
            "commit": tasks.book_and_stop_at_the_commit,
            "acknowledgement": tasks.book,
        }
        jobs, stopped = {}, {}
        with worker(log, concurrency=4) as celery:
            for moment, task in moments.items():
                gates.close(moment)
                jobs[moment] = start(task, name=moment)
                stopped[moment] = gates.reached(moment)
            assert len(set(stopped.values())) == 4
            assert booked() == {"acknowledgement": 1}
            for child in stopped.values():
                celery.kill_child(child)
            assert swept(*jobs.values()) == [JobStatus.SUCCEEDED] * 4
        assert booked() == dict.fromkeys(moments, 1)
        attempts = {moment: job.told()["attempts"] for moment, job in jobs.items()}
        assert attempts == {"before": 2, "effects": 2, "commit": 2, "acknowledgement": 1}
        # Its message came again, to a job that had ended.
        assert "idempotency job_ignored" in log.read_text()

    def test_in_steps_it_resumes_after_the_last_one(self, start, gates, log):
        """Within a step, which is undone, and between two."""
        with worker(log, concurrency=2) as celery:
            gates.close("in.seat.2")
            within = start(tasks.book_in_steps, name="within", seats=3)
            children = [gates.reached("in.seat.2")]
            gates.close("seat.3")
            behind = start(tasks.book_in_steps, name="behind", seats=3)
            children.append(gates.reached("seat.3"))
            assert booked() == {"within": 1, "behind": 3}
            for child in children:
                celery.kill_child(child)
            assert swept(within, behind) == [JobStatus.SUCCEEDED] * 2
        assert booked() == {"within": 3, "behind": 3}
        for job in (within, behind):
            told = job.told()
            assert (told["attempts"], told["result"]) == (2, 3)
            assert told["progress"] == {"done": 3, "total": 3}

    def test_a_whole_worker_leaves_its_jobs_to_another(self, start, gates, log):
        gates.close("effects")
        with worker(log) as celery:
            job = start(tasks.book, name="Ada")
            gates.reached("effects")
            celery.kill()
        assert (job.status, booked()) == (JobStatus.RUNNING, {})
        assert one_sweep().requeued == 1
        assert job.status == JobStatus.QUEUED
        with worker(log):
            assert ended(job) == [JobStatus.SUCCEEDED]
        assert (booked(), job.told()["attempts"]) == ({"Ada": 1}, 2)

    def test_one_that_kills_every_worker_comes_to_an_end(self, start, gates, log):
        gates.close("effects", comers=2)
        with worker(log) as celery:
            job = start(tasks.book, name="Ada")
            first = gates.reached("effects")
            Job.objects.update(attempts=MAX_ATTEMPTS - 1)
            celery.kill_child(first)
            swept_until(lambda: job.row.attempts == MAX_ATTEMPTS)
            celery.kill_child(gates.reached("effects"))
            assert one_sweep().failed == 1
        told = job.told()
        assert (told["status"], told["error"]["code"]) == ("failed", "job_worker_lost")
        assert (told["attempts"], booked()) == (MAX_ATTEMPTS, {})


class TestSuspended:
    @pytest.mark.parametrize("gate", ["before", "effects"])
    def test_past_its_lease_it_is_taken_over_and_changes_nothing_when_it_wakes(
        self, start, gates, log, gate
    ):
        with worker(log) as celery:
            gates.close(gate)
            job = start(tasks.book, name="Ada")
            zombie = gates.reached(gate)
            celery.suspend(zombie)
            assert one_sweep().requeued == 1
            assert ended(job) == [JobStatus.SUCCEEDED]
            told, seats = job.ask().content, Booking.objects.get().seats
            gates.open(gate)
            celery.resume(zombie)
            until(lambda: "idempotency lease_lost" in log.read_text())
        assert job.ask().content == told
        assert (booked(), Booking.objects.get().seats) == ({"Ada": 1}, seats)
        assert job.told()["attempts"] == 2

    def test_at_the_acknowledgement_its_job_has_ended(self, start, gates, log):
        """Whatever comes meanwhile, another delivery or a sweep, and when it goes on."""
        with worker(log) as celery:
            gates.close("acknowledgement")
            job = start(tasks.book, name="Ada")
            stopped = gates.reached("acknowledgement")
            celery.suspend(stopped)
            told = job.ask().content
            elsewhere(run, job.id)
            assert sweep().requeued == sweep().resent == 0
            gates.open("acknowledgement")
            celery.resume(stopped)
        assert job.ask().content == told
        assert (booked(), job.told()["attempts"]) == ({"Ada": 1}, 1)
        assert job.status == JobStatus.SUCCEEDED

    def test_in_the_middle_of_the_commit_it_has_the_last_word(self, start, gates, log):
        """Its rows are locked: neither a sweep nor another delivery waits for them, or runs it."""
        with worker(log) as celery:
            gates.close("commit")
            job = start(tasks.book_and_stop_at_the_commit, name="Ada")
            stopped = gates.reached("commit")
            celery.suspend(stopped)
            until(lambda: overdue() == 1)
            assert sweep().requeued == 0
            elsewhere(run, job.id)
            gates.open("commit")
            celery.resume(stopped)
            assert ended(job) == [JobStatus.SUCCEEDED]
        assert (booked(), job.told()["attempts"]) == ({"Ada": 1}, 1)

    def test_it_wakes_beside_its_successor_and_does_no_step_of_it(self, start, gates, log):
        """The record is unsettled all the while: only the token tells them apart."""
        with worker(log) as celery:
            gates.close("seat.1")
            job = start(tasks.book_in_steps, name="Ada", seats=3)
            zombie = gates.reached("seat.1")
            celery.suspend(zombie)
            assert one_sweep().requeued == 1
            gates.close("in.seat.2")
            assert gates.reached("in.seat.2") != zombie
            gates.open("seat.1")
            celery.resume(zombie)
            until(lambda: "idempotency lease_lost" in log.read_text())
            assert booked() == {"Ada": 1}
            gates.open("in.seat.2")
            assert ended(job) == [JobStatus.SUCCEEDED]
        assert (booked(), job.told()["attempts"]) == ({"Ada": 3}, 2)

    def test_cancelled_meanwhile_it_changes_nothing(self, start, gates, log):
        with worker(log) as celery:
            gates.close("effects")
            job = start(tasks.book, name="Ada")
            child = gates.reached("effects")
            celery.suspend(child)
            assert cancel_job(job.id)
            gates.open("effects")
            celery.resume(child)
            until(lambda: "idempotency lease_lost" in log.read_text())
            assert (job.status, booked()) == (JobStatus.CANCELLED, {})


class TestSentAway:
    def test_time_limits(self, start, log):
        """The soft one fails the job; the hard one ends its process, and it is tried again."""
        with worker(log):
            slow = start(tasks.book_too_slowly, name="slow")
            stuck = start(tasks.book_until_killed, name="stuck")
            assert ended(slow) == [JobStatus.FAILED]
            assert slow.told()["error"]["code"] == "job_time_limit"
            swept_until(lambda: stuck.row.attempts == 2)
            assert cancel_job(stuck.id)
        assert booked() == {}

    def test_a_revoked_one_is_picked_up_again(self, start, broker, gates, log):
        """Revoking is about messages and processes: `cancel_job` calls off the job."""
        sent = []

        def remember(headers, **_):
            sent.append(headers["id"])

        before_task_publish.connect(remember)
        gates.close("effects")
        with worker(log, concurrency=2):
            job = start(tasks.book, name="Ada")
            gates.reached("effects")
            broker.app.control.revoke(sent[0], terminate=True)
            assert swept(job) == [JobStatus.SUCCEEDED]
        assert (booked(), job.told()["attempts"]) == ({"Ada": 1}, 2)

    def test_a_warm_shutdown_ends_what_runs(self, start, gates, log):
        gates.close("effects")
        with worker(log, concurrency=1) as celery:
            job = start(tasks.book, name="Ada")
            gates.reached("effects")
            celery.warm()
            until(lambda: "Warm shutdown" in log.read_text())
            gates.open("effects")
            assert celery.wait() == 0
        assert (job.status, booked()) == (JobStatus.SUCCEEDED, {"Ada": 1})
        assert job.told()["attempts"] == 1

    def test_after_a_cold_one_the_next_worker_has_it(self, start, gates, log):
        gates.close("effects")
        with worker(log, concurrency=1) as celery:
            job = start(tasks.book, name="Ada")
            gates.reached("effects")
            celery.cold()
            celery.wait()
        assert booked() == {}
        with worker(log, concurrency=1):
            assert ended(job) == [JobStatus.SUCCEEDED]
        assert (booked(), job.told()["attempts"]) == ({"Ada": 1}, 2)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_an_hour_off_neither_ends_nor_keeps_a_lease(
    start, broker, gates, log, hours
):
    """On the host of worker and sweep."""
    with worker(log, environment=ahead(timedelta(hours=hours))) as celery:
        gates.close("effects")
        job = start(tasks.book, name="Ada")
        child = gates.reached("effects")
        until_renewed(job)
        broker.app.send_task("idempotency.recover")
        until(lambda: "idempotency.recover" in log.read_text().rpartition("succeeded")[0])
        assert (job.status, job.row.attempts) == (JobStatus.RUNNING, 1)
        celery.kill_child(child)
        until(lambda: overdue() == 1 or job.ended)
        broker.app.send_task("idempotency.recover")
        assert ended(job) == [JobStatus.SUCCEEDED]
    told = job.told()
    assert (booked(), told["attempts"]) == ({"Ada": 1}, 2)
    for moment in ("created_at", "started_at", "finished_at"):
        assert abs(parse_datetime(told[moment]) - timezone.now()) < timedelta(minutes=1)


def until_renewed(job):
    """Its worker has lived longer than its first lease."""
    first = job.row.record.lease_until
    until(lambda: job.row.record.lease_until - first > timedelta(seconds=LEASE))


class TestCharges:
    """An effect outside: once if the outside honours the child key, else once or unknown."""

    def test_a_time_out_after_the_charge_is_tried_again_under_the_same_key(
        self, start, broker, log
    ):
        with worker(log, concurrency=1), card_network() as card:
            card.answers.clear()
            job = start(tasks.charge, card=card.url)
            until(lambda: (row := job.row).attempts == 1 and row.status == JobStatus.QUEUED)
            card.answers.set()
            assert one_sweep().resent == 1
            assert ended(job) == [JobStatus.SUCCEEDED]
            assert (len(card.asked), len(card.charges)) == (2, 1)
            assert card.asked[0] < card.asked[1]  # the tokens that were sent along
        assert (job.told()["result"], booked()) == (1, {"receipt": 1})

    def test_so_it_is_after_a_killed_worker(self, start, gates, log):
        with worker(log) as celery, card_network() as card:
            gates.close("charged")
            job = start(tasks.charge, card=card.url)
            celery.kill_child(gates.reached("charged"))
            assert swept(job) == [JobStatus.SUCCEEDED]
            assert (len(card.asked), len(card.charges)) == (2, 1)
        assert (job.told()["result"], booked()) == (1, {"receipt": 1})

    @pytest.mark.parametrize("fault", ["time-out", "killed"])
    def test_under_hold_nobody_charges_again_and_nobody_says_what_happened(
        self, start, gates, log, fault
    ):
        with worker(log) as celery, card_network() as card:
            if fault == "killed":
                gates.close("charged")
            else:
                card.answers.clear()
            job = start(tasks.charge_once, card=card.url, on_abandoned="hold")
            if fault == "killed":
                celery.kill_child(gates.reached("charged"))
                assert one_sweep().held == 1
            until(lambda: job.row.record.state == State.UNKNOWN)
            card.answers.set()
            with pytest.raises(OutcomeUnknown):
                job.ask()
            run(job.id)
            assert sweep().held == 0
            assert (len(card.asked), len(card.charges)) == (1, 1)
        assert booked() == {}
