"""Keeps one command running for its owner, and ends it when the owner is gone, however it went.

A script of its own: `python -P keeper.py OWNER DIRECTORY UID GID COMMAND ...`. It prints the
command's pid, and exits with the command's status. A parent-death signal would be simpler, but it
follows the thread that forked, not the process, and exists on Linux only; the end of a pipe would
come too late where the owner's forked children hold it as well.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import Any

import psutil

#: Seconds between two looks at the owner.
LOOK_EVERY = 0.2
#: Seconds that an orphaned server has for an orderly end, which also frees its shared memory.
PATIENCE = 10


def kill_tree(pid: int) -> list[psutil.Process]:
    """SIGKILL a process and all below it; returns those that somebody else has to reap."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        root.send_signal(SIGSTOP)  # a stopped parent starts no child between the look and the kill
        children = root.children(recursive=True)
        for process in [*children, root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(SIGKILL)
        return children
    return []


def _outlive(owner: int, server: "subprocess.Popen[bytes]", orphaned: threading.Event) -> None:
    """Wait for the owner's end, then end the server."""
    while os.getppid() == owner:  # an orphan is given another parent
        time.sleep(LOOK_EVERY)
    orphaned.set()
    for signal in (SIGINT, SIGCONT):  # "fast" to PostgreSQL; a stopped server has to go on first
        server.send_signal(signal)
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill_tree(server.pid)


def keep(owner: int, directory: str, uid: int, gid: int, command: Sequence[str]) -> int:
    """Run `command` in `directory`, as that user where we are root; returns its exit status."""
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": uid, "group": gid, "extra_groups": ()}
    server = subprocess.Popen(
        command,
        cwd=directory,
        env={"LC_ALL": "C", "PATH": os.defpath},  # no PGOPTIONS or the like from outside
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        **account,
    )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    orphaned = threading.Event()
    threading.Thread(target=_outlive, args=(owner, server, orphaned), daemon=True).start()
    status = server.wait()
    if orphaned.is_set():
        shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    _, owner, directory, uid, gid, *command = sys.argv
    sys.exit(keep(int(owner), directory, int(uid), int(gid), command))
