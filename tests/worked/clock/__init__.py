"""An app host whose clock is wrong, while the database's is right."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

#: Seconds that a process's clock is ahead; read by sitecustomize.
VARIABLE = "TEST_CLOCK_AHEAD"


def ahead(shift: timedelta) -> Mapping[str, str]:
    """The environment of a Python process, and its forks, whose clock is ahead by `shift`.

    A negative shift is a clock that is behind. `time.time`, `time.time_ns` and the present moments
    of `datetime` are wrong; what measures durations is not. (libfaketime does not serve: as
    packaged today, its versions break either `time.sleep` or the time-outs of semaphores.)
    """
    directory = Path(__file__).parent  # Python imports sitecustomize from there when it starts
    return {"PYTHONPATH": str(directory), VARIABLE: str(shift.total_seconds())}
