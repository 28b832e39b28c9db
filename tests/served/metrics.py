"""gunicorn's configuration where Prometheus adds up its processes; the runbook shows the same."""

from prometheus_client import multiprocess


def child_exit(server, worker):
    """A process that has died runs nothing any more; what it has counted stays."""
    multiprocess.mark_process_dead(worker.pid)
