"""All guards that `make mutants` proves."""

from typing import Final

from mutants import executions, jobs, ledger, requests, rooms
from mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *ledger.MUTANTS,
    *rooms.MUTANTS,
    *requests.MUTANTS,
    *executions.MUTANTS,
    *jobs.MUTANTS,
)
