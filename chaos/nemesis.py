"""Carries out the faults, and counts those that have really struck."""

import os
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil
import psycopg
import redis

from chaos.log import complaints
from chaos.plan import Fault
from chaos.site import Site, children
from enrollment_demo.demo.processes import Process
from idempotency import events

#: A suspension lasts so many times as long as other faults: at times past lock and lease.
SUSPENDED = 3.0
#: Seconds until a fault that meets nobody is over.
IDLE = 10.0
#: Entries that are spoilt at a time.
POISONED = 20

_CLIENTS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class Nemesis:
    """Breaks one thing after the other, and mends it again."""

    def __init__(self, site: Site, seed: int) -> None:
        #: How often each fault has met somebody.
        self.struck: Counter[str] = Counter()
        #: Processes that were ended by SIGKILL.
        self.kills = 0
        self._site = site
        self._chance = random.Random(seed)
        self._ways: dict[str, Callable[[float], bool]] = {
            "redis emptied": self._empty,
            "redis hung": self._hang,
            "redis killed": self._kill_cache,
            "redis full": self._fill,
            "redis read-only": self._demote,
            "redis poisoned": lambda lasts: self._poison(),
            "web process killed": lambda lasts: self._kill_child(site.web),
            "web process suspended": lambda lasts: self._suspend(site.web, lasts),
            "worker killed": lambda lasts: self._kill_worker(),
            "worker suspended": lambda lasts: self._suspend(site.worker, lasts),
            "connections terminated": lambda lasts: self._terminate(),
            "database restarted": lambda lasts: self._restart_database(),
            "commit cut": lambda lasts: self._cut_commit(),
            "broker stopped": self._kill_broker,
        }

    def follow(self, faults: Iterable[Fault], started: float, told: Callable[[str], None]) -> None:
        """Each fault at its time, or as soon as the one before is over."""
        for fault in faults:
            time.sleep(max(0.0, started + fault.at - time.monotonic()))
            told(fault.kind)
            if self._ways[fault.kind](fault.lasts):
                self.struck[fault.kind] += 1

    # Redis. Behind an open breaker nobody meets it, so each of these lasts until somebody has.

    def _cache(self) -> redis.Redis:
        return redis.Redis.from_url(self._site.cache.url())

    def _empty(self, lasts: float) -> bool:
        """Every 10 ms."""
        lost = 0
        ends = time.monotonic() + lasts
        with self._cache() as client:
            while time.monotonic() < ends + (0 if lost else IDLE):
                lost += int(client.dbsize())
                client.flushall()
                time.sleep(0.01)
        return lost > 0

    def _hang(self, lasts: float) -> bool:
        with self._until_met(lasts) as met:
            self._site.cache.pause()
        self._site.cache.resume()
        return met()

    def _kill_cache(self, lasts: float) -> bool:
        self.kills += 1
        with self._until_met(lasts) as met:
            self._site.cache.kill()
        self._site.cache.start()
        return met()

    def _fill(self, lasts: float) -> bool:
        """It is full, and may forget nothing."""
        with self._cache() as client:
            with self._until_met(lasts) as met:
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("maxmemory", "1")
            client.config_set("maxmemory", "0")
        return met()

    def _demote(self, lasts: float) -> bool:
        """It has become a replica, of a server that is not there."""
        with self._cache() as client:
            with self._until_met(lasts) as met:
                client.replicaof("127.0.0.1", "1")
            client.replicaof("NO", "ONE")
        return met()

    @contextmanager
    def _until_met(self, lasts: float) -> Iterator[Callable[[], bool]]:
        """Break it in the block; it stays so for a while, and until somebody has complained."""
        since = time.time()

        def met() -> bool:
            return complaints(self._site.log, events.CACHE_UNAVAILABLE, since) > 0

        yield met
        time.sleep(lasts)
        idle = time.monotonic() + IDLE
        while not met() and time.monotonic() < idle:
            time.sleep(0.05)

    def _poison(self) -> bool:
        """Entries are cut, flipped, pickled, or another key's. The last round asks for all."""
        with self._cache() as client:
            idle = time.monotonic() + IDLE
            while not (names := list(client.scan_iter("*:reply"))) and time.monotonic() < idle:
                time.sleep(0.05)
            spoilt = self._chance.sample(names, min(len(names), POISONED))
            for name in spoilt:
                entry = client.get(self._chance.choice(names)) or b""
                kinds = (entry, entry[:-1], entry[:-2] + b"?" + entry[-1:], pickle.dumps(entry))
                client.set(name, self._chance.choice(kinds), keepttl=True)
        return bool(spoilt)

    # The database and the broker

    def _kill_broker(self, lasts: float) -> bool:
        with redis.Redis.from_url(self._site.broker.url()) as client:
            connected = len(client.client_list()) - 1  # without ourselves
        self.kills += 1
        self._site.broker.kill()
        time.sleep(lasts)
        self._site.broker.start()
        return connected > 0

    def _restart_database(self) -> bool:
        with psycopg.connect(self._site.database.url()) as connection:
            asked = f"SELECT count(*) {_CLIENTS}"
            row = connection.execute(asked).fetchone()
        # In turn as by a crash and in order, which breaks what is under way just the same.
        if self._chance.random() < 0.5:
            self.kills += 1
            self._site.database.kill()
        else:
            self._site.database.stop()
        self._site.database.start()
        return row is not None and row[0] > 0

    def _terminate(self) -> bool:
        with psycopg.connect(self._site.database.url(), autocommit=True) as connection:
            asked = f"SELECT count(pg_terminate_backend(pid)) {_CLIENTS}"
            row = connection.execute(asked).fetchone()
        return row is not None and row[0] > 0

    def _cut_commit(self) -> bool:
        """The next COMMIT never arrives, or its answer does not."""
        relay = self._site.relay
        before, idle = relay.broken, time.monotonic() + IDLE
        relay.break_next = self._chance.choice(("unsent", "unanswered"))
        while relay.broken == before and time.monotonic() < idle:
            time.sleep(0.01)
        relay.break_next = None
        return relay.broken > before

    # The processes

    def _kill_child(self, process: Process) -> bool:
        victims = children(process)
        if not victims:
            return False
        self.kills += 1
        self._chance.choice(victims).kill()
        return True

    def _kill_worker(self) -> bool:
        """One child, which Celery replaces, or the whole worker."""
        if self._chance.random() < 0.5:
            return self._kill_child(self._site.worker)
        self.kills += 1
        self._site.worker.kill()  # its supervisor starts another
        return True

    def _suspend(self, process: Process, lasts: float) -> bool:
        victims = children(process)
        if not victims:
            return False
        victim = self._chance.choice(victims)
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(victim.pid, signal.SIGSTOP)
            time.sleep(lasts * SUSPENDED)
            stopped = victim.status() == psutil.STATUS_STOPPED
            os.kill(victim.pid, signal.SIGCONT)
            return stopped
        return False
