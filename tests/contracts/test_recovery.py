"""The sweep: what nobody is at work on any more goes on, each once, and nothing else is touched."""

import time
from functools import partial

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from idempotency import recovery
from idempotency.exceptions import LeaseLost
from idempotency.jobs import start_job
from idempotency.layers import jobs
from idempotency.layers.clock import after
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from idempotency.outcomes import JobEnding
from idempotency.recovery import Recovered
from idempotency.worker import end_job
from tests.concurrent import Crew, elsewhere, open_transaction
from tests.factories import RecordFactory
from tests.jobs import booked, document, lapse, leased_for, run, sweep
from tests.worked import tasks

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


@pytest.fixture
def start(ask, messages):
    """Starts a job that books under the name, and gives its id; the key is new each time."""

    def start(name="Ada", **policy):
        key = f"{name}-{messages.app.main}"
        handler = partial(start_job, tasks.book, name=name)
        answer = ask(handler, key=key, body={"name": name}, execution="job", **policy)
        return document(answer)["id"]

    return start


def found(swept):
    """What a sweep did, without how long it took."""
    counted = {name: getattr(swept, name) for name in Recovered.__dataclass_fields__}
    return {name: n for name, n in counted.items() if n and name not in ("batches", "seconds")}


def standing():
    return list(Job.objects.order_by("record").values_list("status", flat=True))


class TestJobs:
    def test_a_lost_message_is_sent_again(self, start, messages):
        start()
        messages.take()
        lapse()
        assert found(sweep()) == {"resent": 1}
        messages.deliver()
        assert (standing(), booked()) == ([JobStatus.SUCCEEDED], {"Ada": 1})
        assert found(sweep()) == {}

    def test_what_a_dead_worker_had_waits_for_another(self, start, messages):
        start()
        messages.take()
        lapse(status=JobStatus.RUNNING, attempts=1)
        token = IdempotencyRecord.objects.get().attempt
        assert found(sweep()) == {"requeued": 1}
        assert standing() == [JobStatus.QUEUED]
        assert IdempotencyRecord.objects.get().attempt > token
        messages.deliver()
        assert (Job.objects.get().attempts, booked()) == (2, {"Ada": 1})

    def test_what_may_be_alive_is_not_touched(self, start, messages):
        start("queued")
        start("running")
        Job.objects.filter(arguments__contains="running").update(status=JobStatus.RUNNING)
        start("done")
        for _ in range(2):
            messages.take()
        messages.deliver()
        before = [list(model.objects.order_by("pk").values()) for model in (Job, IdempotencyRecord)]
        assert found(sweep()) == {}
        after_ = [list(model.objects.order_by("pk").values()) for model in (Job, IdempotencyRecord)]
        assert after_ == before
        assert len(messages) == 0

    def test_what_is_settled_is_no_job_of_the_sweeps(self, start, messages):
        """Neither by its state, nor by a lease that somebody forgot to take away."""
        start()
        messages.deliver()
        RecordFactory.create()
        IdempotencyRecord.objects.update(lease_until=after(-1))
        assert found(sweep()) == {}

    def test_a_long_queue_gets_fewer_and_fewer_messages(self, start, messages):
        """Twice the pause each time, up to 64 leases: the queue does not fill with repetitions."""
        start(lease=10)
        pauses = []
        for _ in range(9):
            lapse()
            assert found(sweep()) == {"resent": 1}
            pauses.append(leased_for().total_seconds())
            assert found(sweep()) == {}
        assert pauses == pytest.approx([10, 20, 40, 80, 160, 320, 640, 640, 640], abs=5)
        assert len(messages) == 10
        while len(messages):
            messages.deliver()
        assert booked() == {"Ada": 1}

    def test_a_broker_that_is_away_makes_no_pause_longer(self, start):
        """However long its outage: what it did not take does not count."""

        def refuse(job_id, task, *, using):
            return False

        start(lease=10)
        for _ in range(5):
            lapse()
            assert found(recovery.recover(refuse)) == {"resent": 1}
            assert leased_for().total_seconds() == pytest.approx(10, abs=5)

    def test_a_broker_that_hangs_does_not_keep_it_for_ever(self, start):
        """Each batch takes longer than a lease: all have their turn, and each has one."""
        names = [f"Ada {number}" for number in range(5)]
        started = [start(name) for name in names]
        lapse(lease=0.2)
        asked = []

        def hang(job_id, task, *, using):
            asked.append(str(job_id))
            if len(asked) > len(started):
                pytest.fail("it begins again")
            time.sleep(0.15)
            return False

        assert found(recovery.recover(hang, batch_size=2)) == {"resent": 5}
        assert asked == started

    def test_one_that_is_lost_with_every_worker_fails(self, start, messages, ask):
        start()
        token = 0
        for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
            assert jobs.begin(Job.objects.get().pk, using="default").attempts == attempt
            assert IdempotencyRecord.objects.get().attempt > token
            token = IdempotencyRecord.objects.get().attempt
            lapse()
            last = attempt == jobs.MAX_ATTEMPTS
            if last:  # no message that comes late begins it once more
                assert jobs.begin(Job.objects.get().pk, using="default") is None
            assert found(sweep()) == ({"failed": 1} if last else {"requeued": 1})
        record = IdempotencyRecord.objects.get()
        assert (record.state, record.status, standing()) == (State.FINISHED, 200, ["failed"])
        assert Job.objects.get().error_code == "job_worker_lost"
        while len(messages):
            messages.deliver()
        assert booked() == {}

    def test_under_hold_it_is_left_to_an_operator(self, start, messages):
        start(on_abandoned="hold")
        lapse(status=JobStatus.RUNNING, attempts=1)
        assert found(sweep()) == {"held": 1}
        record = IdempotencyRecord.objects.get()
        assert (record.state, record.lease_until, record.purge_at) == (State.UNKNOWN, None, None)
        lapse()
        assert found(sweep()) == {}
        messages.deliver()
        assert booked() == {}

    def test_a_zombie_of_before_the_sweep_changes_nothing(self, start, messages):
        """Nobody has taken over yet, and it is too late already."""
        start()
        begun = jobs.begin(Job.objects.get().pk, using="default")
        lapse()
        sweep()
        jobs.progress(begun.id, begun.attempts, 1, 2, using="default")
        with pytest.raises(LeaseLost):
            end_job(begun, JobEnding(JobStatus.SUCCEEDED), using="default")
        assert (standing(), Job.objects.get().done) == ([JobStatus.QUEUED], None)


class TestRequests:
    @pytest.mark.parametrize(
        ("holds", "state", "event"),
        [(False, State.ABANDONED, "abandoned"), (True, State.UNKNOWN, "held")],
    )
    def test_a_leased_request_whose_process_is_gone(self, holds, state, event):
        RecordFactory.create(running=True, purge_at=None, lease_until=after(-1), holds=holds)
        assert found(recovery.recover(unsendable)) == {event: 1}
        record = IdempotencyRecord.objects.get()
        assert (record.state, record.attempt, record.lease_until) == (state, 2, None)
        assert (record.purge_at is None) is holds

    def test_one_whose_lease_is_running(self):
        RecordFactory.create(running=True, purge_at=None, lease_until=after(60))
        assert found(recovery.recover(unsendable)) == {}


def unsendable(job_id, task, *, using):
    raise AssertionError("no job, no message")


class TestBatches:
    def test_each_is_a_transaction_of_its_own_with_its_messages_behind_it(self, start, messages):
        for number in range(5):
            start(f"Ada {number}")
        while len(messages):
            messages.take()
        lapse()
        seen = []

        def publish(job_id, task, *, using):
            seen.append(elsewhere(Job.objects.filter(resent=1).count))

        swept = recovery.recover(publish, batch_size=2)
        assert (swept.resent, swept.batches) == (5, 3)
        assert seen == [2, 2, 4, 4, 5]
        assert swept.seconds > 0

    def test_a_batch_locks_no_more_than_it_takes(self, start):
        for number in range(3):
            start(f"Ada {number}")
        lapse()
        with CaptureQueriesContext(connection) as queries:
            sweep(batch_size=2)
        locked = [q["sql"] for q in queries if "FOR UPDATE SKIP LOCKED" in q["sql"]]
        assert len(locked) == 2
        assert all("LIMIT 2" in statement for statement in locked)

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_batch_of_nothing_is_refused(self, size):
        with pytest.raises(ValueError, match=str(size)):
            sweep(batch_size=size)

    def test_it_cannot_be_part_of_a_transaction(self):
        """Its messages would wait for that one's commit, and so would everybody else."""
        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            sweep()


class TestAtOnce:
    def test_of_many_sweeps_each_job_is_handled_by_one(self, start, messages):
        names = [f"Ada {number}" for number in range(24)]
        for name in names:
            start(name)
        while len(messages):
            messages.take()
        lapse()
        with Crew(4) as crew:
            swept = [crew.start(sweep, batch_size=3) for _ in range(8)]
            assert sum(each.result().resent for each in swept) == len(names)
        assert len(messages) == len(names)
        assert set(Job.objects.values_list("resent", flat=True)) == {1}
        while len(messages):
            messages.deliver()
        assert booked() == dict.fromkeys(names, 1)

    def test_nobody_is_waited_for(self, start, messages):
        """Whose record is locked, is being ended, begun or swept."""
        start("locked")
        start("lost")
        lapse()
        first = IdempotencyRecord.objects.order_by("id")[:1]
        with open_transaction(lambda: list(first.select_for_update())):
            assert found(elsewhere(sweep)) == {"resent": 1}
        assert found(sweep()) == {"resent": 1}

    def test_sweeps_and_workers_together_do_each_job_once(self, start, messages):
        """Leases that are over at every moment: nothing but the fence decides."""
        names = [f"Ada {number}" for number in range(10)]
        started = [start(name) for name in names]
        with Crew(4) as crew:
            work = [
                crew.start(call)
                for job_id in started
                for call in (partial(run, job_id), sweep_and_lapse, partial(run, job_id))
            ]
            for each in work:
                each.result()
        for _ in range(jobs.MAX_ATTEMPTS):
            sweep_and_lapse()
            for job_id in started:
                run(job_id)
        assert booked() == dict.fromkeys(names, 1)
        assert set(standing()) == {JobStatus.SUCCEEDED}


def sweep_and_lapse():
    lapse()
    return sweep()


def test_a_job_whose_row_was_deleted_stops_no_other_and_frees_its_key(start, messages):
    start("orphaned")
    start("lost")
    Job.objects.filter(arguments__contains="orphaned").delete()
    lapse()
    assert found(sweep()) == {"resent": 1, "abandoned": 1}
    start("orphaned")
    while len(messages):
        messages.deliver()
    assert booked() == {"orphaned": 1, "lost": 1}


def test_the_beats_task_is_the_sweep(start, messages):
    start()
    messages.take()
    lapse()
    messages.app.tasks["idempotency.recover"].run()
    messages.deliver()
    assert booked() == {"Ada": 1}
