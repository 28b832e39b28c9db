"""The packages that we compare with, each on the same create as its own documentation says.

None of them is a dependency: `pip install -e ".[peers]"`. What cannot be imported or built says so.
"""

import asyncio
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from django.db import connection, transaction
from django.http.response import HttpResponseBase
from redis import Redis
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from benchmarks.views import Bare, enroll

View = Callable[..., HttpResponseBase]


@dataclass(frozen=True)
class Peer:
    """A package, or one of its two stores."""

    name: str
    path: str
    distribution: str
    #: Whether its replay comes before or after the caller was authenticated.
    replays: Literal["before auth", "after auth"]
    build: Callable[[], View]
    middleware: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A peer that can run, in the version that is installed."""

    peer: Peer
    version: str
    view: View


@dataclass(frozen=True)
class Missing:
    """A peer that cannot run, and why."""

    peer: Peer
    reason: str


@lru_cache(maxsize=1)
def found() -> tuple[Found | Missing, ...]:
    """Every peer, built or with the reason why not; none unless the run asked for peers."""
    return tuple(map(_look_at, PEERS)) if os.environ.get("BENCHMARK_PEERS") else ()


def runnable() -> list[Found]:
    """The peers that can run."""
    return [peer for peer in found() if isinstance(peer, Found)]


def _look_at(peer: Peer) -> Found | Missing:
    try:
        return Found(peer, version(peer.distribution), peer.build())
    except PackageNotFoundError:
        return Missing(peer, 'not installed: pip install -e ".[peers]"')
    except Exception as error:  # noqa: BLE001 - whatever keeps a peer from running is its figure
        return Missing(peer, f"{type(error).__name__}: {error}")


def _idemkit_redis() -> View:
    backend = import_module("idemkit").RedisBackend.from_url(os.environ["REDIS_URL"])
    return _idemkit(backend)


def _idemkit_postgres() -> View:
    params = connection.settings_dict
    url = f"postgres://{params['USER']}@{params['HOST']}:{params['PORT']}/{params['NAME']}"
    if params["PASSWORD"]:
        url = url.replace("@", f":{params['PASSWORD']}@", 1)
    module = import_module("idemkit.backends.postgres")
    asyncio.run(module.init_pg(url))
    return _idemkit(module.PostgresBackend.from_url(url))


def _idemkit(backend: Any) -> View:
    mixin = import_module("idemkit.contrib.drf").idempotent_view(
        backend=backend,
        config=import_module("idemkit").HttpConfig(scope=lambda request: str(request.user.pk)),
    )
    return _mixed_with(mixin)


def _drf_idempotencykey() -> View:
    return _mixed_with(import_module("drf_idempotencykey.mixins").DrfIdempotencyKeyMixin)


def _drf_idempotency() -> View:
    import_module("drf_idempotency.middleware")
    return Bare.as_view()


def _django_idempotency_key() -> View:
    view: View = import_module("idempotency_key.decorators").idempotency_key(Bare.as_view())
    return view


def _powertools() -> View:
    utility = import_module("aws_lambda_powertools.utilities.idempotency")
    cache = import_module("aws_lambda_powertools.utilities.idempotency.persistence.cache")
    # It asks for the time that AWS Lambda has left, and warns outside of it.
    warnings.filterwarnings("ignore", message="Couldn't determine the remaining time left")
    protect = utility.idempotent_function(
        data_keyword_argument="order",
        persistence_store=cache.CachePersistenceLayer(
            client=Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
        ),
        # No payload validation: its Redis store forgets the digest, and refuses every replay.
        config=utility.IdempotencyConfig(event_key_jmespath="[user, key]"),
    )

    def place(*, order: dict[str, Any]) -> dict[str, Any]:
        with transaction.atomic():
            return enroll(order["data"])

    place_once = protect(place)

    class Powertools(APIView):
        def post(self, request: Request) -> Response:
            key = request.headers["Idempotency-Key"]
            order = {"user": request.user.pk, "key": key, "data": request.data}
            return Response(place_once(order=order), status=201)

    return Powertools.as_view()


def _mixed_with(mixin: type) -> View:
    view: type[APIView] = type("Mixed", (mixin, Bare), {})
    return view.as_view()


PEERS = (
    Peer("idemkit (Redis)", "idemkit-redis", "idemkit", "after auth", _idemkit_redis),
    Peer(
        "idemkit (PostgreSQL, own pool)",
        "idemkit-postgres",
        "idemkit",
        "after auth",
        _idemkit_postgres,
    ),
    Peer(
        "aws-lambda-powertools (Redis)",
        "powertools",
        "aws-lambda-powertools",
        "after auth",
        _powertools,
    ),
    Peer(
        "django-idempotency-key (Redis)",
        "django-idempotency-key",
        "django-idempotency-key",
        "before auth",
        _django_idempotency_key,
        ("idempotency_key.middleware.ExemptIdempotencyKeyMiddleware",),
    ),
    Peer(
        "drf-idempotency (database)",
        "drf-idempotency",
        "drf-idempotency",
        "before auth",
        _drf_idempotency,
        ("drf_idempotency.middleware.IdempotencyMiddleware",),
    ),
    Peer(
        "drf-idempotencykey (database)",
        "drf-idempotencykey",
        "drf-idempotencykey",
        "after auth",
        _drf_idempotencykey,
    ),
)
