"""Calls in other processes: of this machine, or jobs of a cluster through submitit (the extra `cluster`).

They hear of a stop by SIGTERM, and from us alone: Ctrl-C, which a terminal sends to every process, does not reach them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emorl.errors import InputError

if TYPE_CHECKING:
    import submitit


class LostError(Exception):
    """A call ended without a result; the message says how."""


class Process:
    """A call in a process of this machine, which has so many threads from its first import on."""

    leave = False
    """Whether it goes on when we stop."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_child, args=(pipe, function, arguments))
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            with _without_ctrl_c():
                self._process.start()
        finally:
            del os.environ["OMP_NUM_THREADS"]
            os.environ |= {} if before is None else {"OMP_NUM_THREADS": before}
            pipe.close()
        self.name = f"process {self._process.pid}"

    def ended(self) -> bool:
        """Whether there is a result, or will be none."""
        try:
            return self._pipe.poll()
        except BrokenPipeError:  # what Windows says where others tell of an end
            return True

    def result(self) -> Any:
        """What the function returned; raises LostError."""
        with suppress(EOFError, BrokenPipeError):
            result = self._pipe.recv()
            self._process.join()
            return result
        self._process.join()
        code = self._process.exitcode or 0
        if code >= 0:
            raise LostError(f"its process ended with exit code {code}")
        name = signal.Signals(-code).name
        raise LostError(f"killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else ""))

    def stop(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _child(pipe: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """What a process does; it is asked to end when its parent is gone."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    pipe.send(function(*arguments))


@dataclass(frozen=True)
class Cluster:
    """Where jobs are sent."""

    kind: Literal["slurm", "local"]
    """`local` starts every job at once on this machine, to try what slurm will do."""
    folder: Path
    """For submitit's files and the logs of the jobs; slurm's machines must see it, as all that the jobs write."""
    minutes: int = 24 * 60
    """Time limit of a job."""
    partition: str | None = None
    """Of slurm; its default otherwise."""


class Job:
    """A call in a job of a cluster."""

    def __init__(self, job: submitit.Job[Any], leave: bool) -> None:
        self._job, self.leave = job, leave
        self.name = f"job {job.job_id}"

    def ended(self) -> bool:
        """Whether there is a result, or will be none."""
        return self._job.done()

    def result(self) -> Any:
        """What the function returned; raises LostError."""
        try:
            return self._job.result()
        except Exception:  # whose text is the whole log
            raise LostError(f"{self.name} ended without a result; its log: {self._job.paths.stderr}") from None

    def stop(self) -> None:
        """Ask a local one to end; one of slurm goes on."""
        if not self.leave:
            with suppress(ProcessLookupError):
                os.kill(int(self._job.job_id), signal.SIGTERM)  # to the process that passes it on

    def kill(self) -> None:
        """Ask once more, which ends training at once."""
        self.stop()


def submit(cluster: Cluster, function: Callable[..., Any], calls: Sequence[Sequence[Any]], gpu: bool) -> list[Job]:
    """A job for every call, all or none, with one GPU each or none. Raises InputError where the cluster takes none."""
    try:
        import submitit
    except ImportError:
        raise InputError("jobs need submitit: pip install 'emorl[cluster]'") from None
    if cluster.minutes < 1:
        raise InputError(f"the time limit of a job must be at least 1 minute, got {cluster.minutes}")
    try:
        # The numbers of local jobs repeat, so every submission has a folder of its own.
        executor = submitit.AutoExecutor(cluster.folder / time.strftime("%Y%m%d-%H%M%S"), cluster.kind)
        executor.update_parameters(
            name="emorl", timeout_min=cluster.minutes, gpus_per_node=int(gpu), slurm_partition=cluster.partition
        )
        with _without_ctrl_c(), executor.batch():
            jobs = [executor.submit(_job, function, arguments) for arguments in calls]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{cluster.kind} takes no jobs: {' '.join(str(error).split())}") from None
    return [Job(job, leave=cluster.kind == "slurm") for job in jobs]


def _job(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What a job does. Slurm announces its time limit by a signal that submitit would end the process at."""
    signal.signal(signal.SIGUSR2, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    return function(*arguments)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started inside begin with Ctrl-C blocked."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would be started inside, and takes the mask off when it is
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or termination signal; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
