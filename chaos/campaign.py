"""One campaign: the plan carried out on a site, and the verdict."""

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos.clients import LIMITS, Clients
from chaos.nemesis import Nemesis
from chaos.oracle import judge, recovery, replies
from chaos.plan import FAULTS, plan
from chaos.site import site


def run(
    seed: int, seconds: float, *, unprotected: bool, told: Callable[[str], None]
) -> dict[str, Any]:
    """Carry it out; what was counted, as JSON can say it."""
    campaign = plan(seed, seconds)
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as directory,
        site(Path(directory), unprotected=unprotected) as place,
    ):
        clients, nemesis = Clients(place.web.url), Nemesis(place, seed)
        started = time.monotonic()
        sending = threading.Thread(target=clients.follow, args=(campaign.errands, started))
        sending.start()
        nemesis.follow(campaign.faults, started, told)
        sending.join()
        told("last round")
        clients.last_round(campaign.errands)
        clients.close()
        violations = judge(clients.history, place.effects(), place.commits(), LIMITS)
        unfinished = place.unfinished()
        executions, effects = place.executions(), place.effects().total()
    kinds = {fault.kind for fault in campaign.faults}
    return {
        "seed": seed,
        "seconds": seconds,
        "attempts": len(clients.history),
        "keys": len(campaign.errands),
        "executions": executions,
        "effects": effects,
        "kills": nemesis.kills,
        "recovery": recovery(clients.history),
        "replies": dict(sorted(replies(clients.history).items())),
        "faults": {kind: nemesis.struck[kind] for kind in FAULTS},
        "missed": sorted(kind for kind in kinds if not nemesis.struck[kind]),
        "violations": [asdict(violation) for violation in violations],
        "unfinished": unfinished,
        # The rule of three: no event in n trials puts its rate, at 95 %, below 3 / n.
        "bound": 3 / len(campaign.errands) if not violations else None,
    }
