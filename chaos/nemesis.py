"""Carries out the faults, and counts those that have really struck."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil
import psycopg
import redis

from chaos.plan import Fault
from chaos.site import Site, children
from enrollment_demo.demo.processes import Process
from enrollment_demo.servers import Redis

#: A suspension lasts so many times as long as other faults: at times past lock and lease.
SUSPENDED = 3.0
#: Seconds that a server may have nothing to lose.
IDLE = 10.0


class Nemesis:
    """Breaks one thing after the other, and mends it again."""

    def __init__(self, site: Site, seed: int) -> None:
        self.struck: Counter[str] = Counter()
        self._site = site
        self._chance = random.Random(seed)
        self._ways: dict[str, Callable[[float], bool]] = {
            "redis emptied": self._empty,
            "redis hung": self._hang,
            "redis killed": lambda lasts: self._restart(site.cache, lasts),
            "web process killed": lambda lasts: self._kill_child(site.web),
            "web process suspended": lambda lasts: self._suspend(site.web, lasts),
            "worker killed": lambda lasts: self._kill_worker(),
            "worker suspended": lambda lasts: self._suspend(site.worker, lasts),
            "connections terminated": lambda lasts: self._terminate(),
            "database restarted": lambda lasts: self._restart_database(),
            "broker stopped": lambda lasts: self._restart(site.broker, lasts),
        }

    def follow(self, faults: Iterable[Fault], started: float, told: Callable[[str], None]) -> None:
        """Each fault at its time, or as soon as the one before is over."""
        for fault in faults:
            time.sleep(max(0.0, started + fault.at - time.monotonic()))
            told(fault.kind)
            if self._ways[fault.kind](fault.lasts):
                self.struck[fault.kind] += 1

    def _empty(self, lasts: float) -> bool:
        """Every 10 ms; longer where there is nothing to lose, as behind an open breaker."""
        lost = 0
        ends = time.monotonic() + lasts
        with redis.Redis.from_url(self._site.cache.url()) as client:
            while time.monotonic() < ends + (0 if lost else IDLE):
                lost += int(client.dbsize())
                client.flushall()
                time.sleep(0.01)
        return lost > 0

    def _hang(self, lasts: float) -> bool:
        self._site.cache.pause()
        time.sleep(lasts)
        self._site.cache.resume()
        return True

    def _restart(self, server: Redis, lasts: float) -> bool:
        server.kill()
        time.sleep(lasts)
        server.start()
        return True

    def _restart_database(self) -> bool:
        # In turn as by a crash and in order, which breaks what is under way just the same.
        self._chance.choice((self._site.database.kill, self._site.database.stop))()
        self._site.database.start()
        return True

    def _terminate(self) -> bool:
        with psycopg.connect(self._site.database.url(), autocommit=True) as connection:
            row = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchone()
        return row is not None and row[0] > 0

    def _kill_child(self, process: Process) -> bool:
        victims = children(process)
        if not victims:
            return False
        self._chance.choice(victims).kill()
        return True

    def _kill_worker(self) -> bool:
        """One child, which Celery replaces, or the whole worker."""
        if self._chance.random() < 0.5:
            return self._kill_child(self._site.worker)
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
