"""A bar on standard error for what takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_AFTER = 2.0  # seconds


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told of what is done; the bar appears on a terminal after two seconds.

    Args:
        what: is written before the bar.
        total: all there is to do; None where that is not known.
    """
    from rich.console import Console  # here, since importing the package should not load it
    from rich.progress import Progress

    console = Console(stderr=True)
    progress = Progress(console=console, transient=True)
    task = progress.add_task(what, total=total)
    started = time.monotonic()

    def advance(done: int) -> None:
        progress.advance(task, done)
        if console.is_terminal and not progress.live.is_started and time.monotonic() - started > _AFTER:
            progress.start()

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
