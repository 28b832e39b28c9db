"""A registration window: the plan acted out against the services, with all that goes wrong."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.plan import Plan, Trouble
from enrollment_demo.demo.relay import LOOPBACK, Fault, Relay
from enrollment_demo.demo.services import Service
from enrollment_demo.demo.visitors import Doors, Tally, act_out

#: How a client's try goes wrong -> what the relay before each server does.
FAULTS = {
    Trouble.REPLY_LOST: Fault.DROP,
    Trouble.REPLY_LATE: Fault.HOLD,
    # It gives up by itself; the relay only knows when the server is done with what was given up.
    Trouble.IMPATIENT: Fault.NONE,
}
#: Seconds for the servers to finish what clients gave up on.
SETTLE = 30.0
#: Seconds between two looks.
PAUSE = 0.05

#: Told what is happening, in words; called often with nothing new to say.
Watcher = Callable[[str], None]


class WindowError(RuntimeError):
    """The window did not close: servers were still at work on something."""


def act(
    plan: Plan, servers: Sequence[Service], tally: Tally, watch: Watcher, outage: Backing | None
) -> None:
    """Opens the window, lets everybody come, and returns when all is answered and done.

    `tally` fills as it goes. Where `outage` is given, its Redis goes away in the middle.
    """
    with ExitStack() as stack:
        relays = {
            trouble: [
                stack.enter_context(Relay((LOOPBACK, server.port), fault, unseen=True))
                for server in servers
            ]
            for trouble, fault in FAULTS.items()
        }
        doors = Doors(
            plain=tuple(server.port for server in servers),
            troubled={
                trouble: tuple(relay.port for relay in group) for trouble, group in relays.items()
            },
        )
        if outage is not None:
            stack.enter_context(_outage(plan, outage, watch))
        _let_in(plan, doors, tally, watch)
        _settle([relay for group in relays.values() for relay in group])


def _let_in(plan: Plan, doors: Doors, tally: Tally, watch: Watcher) -> None:
    opened = time.monotonic()
    inside: list[threading.Thread] = []
    for visit in plan.visits:
        while (early := opened + visit.start - time.monotonic()) > 0:
            time.sleep(min(early, PAUSE))
            watch("")
        thread = threading.Thread(target=act_out, args=[visit, doors, tally], daemon=True)
        thread.start()
        inside.append(thread)
    while any(thread.is_alive() for thread in inside):  # each ends by itself: clients give up
        time.sleep(PAUSE)
        watch("")


def _settle(relays: list[Relay]) -> None:
    deadline = time.monotonic() + SETTLE
    while any(relay.busy for relay in relays):
        if time.monotonic() > deadline:
            raise WindowError("A server is still at work, long after every client has left.")
        time.sleep(PAUSE)


@contextmanager
def _outage(plan: Plan, backing: Backing, watch: Watcher) -> Iterator[None]:
    """Takes Redis away and brings it back while the block runs."""
    away, back = plan.outage
    over = threading.Event()
    errors: list[Exception] = []

    def happen() -> None:
        try:
            over.wait(away)
            watch("Redis is killed" if backing.redis_is_ours else "Redis is cut off")
            backing.redis_away()
            over.wait(back - away)
            backing.redis_back()
            watch("Redis is back")
        except Exception as error:  # noqa: BLE001 - told in the main thread, below
            errors.append(error)

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    for error in errors:
        raise error
