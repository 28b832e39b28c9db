"""A process of the demo ends with the demo, however that went."""

import os
import select
import signal
import sys
import threading

#: Seconds between two looks at the starter.
_LOOK_EVERY = 0.5


def end_with_starter() -> None:
    """Has this process end in order once the one that started it is gone. Returns at once."""
    starter = os.getppid()

    def watch() -> None:
        # Nobody writes to our stdin: readable means closed. The parent's id is for a starter
        # whose other children still hold the pipe.
        while not select.select([sys.stdin], [], [], _LOOK_EVERY)[0] and os.getppid() == starter:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
