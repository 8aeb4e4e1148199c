"""How far a stage is: a bar on a terminal, plain lines elsewhere (a file, nohup, a Slurm log, CI)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

FIRST_S, EVERY_S = 5.0, 20.0  # until the first line, and between lines

Update = Callable[[float, float, str], None]  # done, total, note


def clock(seconds: float) -> str:
    """95 -> "1:35", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Lines:
    """What the worker said last, as a line; times come from outside, in seconds."""

    def __init__(self, title: str, now: float) -> None:
        self.title, self.start = title, now
        self.done = self.total = 0.0
        self.note = ""
        #: When work began to be counted, and from which count on.
        self.first: tuple[float, float] | None = None
        self.heard: float | None = None
        self.printed = now

    def update(self, done: float, total: float, note: str, now: float) -> None:
        """The worker said something."""
        if self.first is None or done < self.first[1]:
            self.first = (now, done)
        self.done, self.total, self.note, self.heard = done, total, note, now

    def left(self, now: float) -> float | None:
        """Seconds until the end at the pace so far; None as long as there is none."""
        if self.first is None or self.done <= self.first[1]:
            return None
        pace = (now - self.first[0]) / (self.done - self.first[1])
        return max(pace * (self.total - self.done) - (now - (self.heard or now)), 0.0)

    def line(self, now: float) -> str:
        """The line to print now; it says so when the worker has been silent since the last one."""
        silent_since, self.printed = self.printed, now
        if self.heard is None:
            return f"{self.title}: ... still loading, {now - self.start:.0f} s"
        parts = []
        if self.total:
            parts.append(f"{self.done:g}/{self.total:g} ({100 * self.done / self.total:.0f}%)")
        parts += [self.note] if self.note else []
        parts.append(f"{clock(now - self.start)} elapsed")
        left = self.left(now)
        parts += [f"{clock(left)} left"] if left is not None else []
        text = f"{self.title}: {', '.join(parts)}"
        if self.heard < silent_since:
            text += f" ... still working, nothing new for {now - self.heard:.0f} s"
        return text


@contextmanager
def shown(console: Console, title: str) -> Iterator[Update]:
    """Show the progress that the block tells of, and a closing line unless it raises."""
    start = time.monotonic()
    # Also where FORCE_COLOR, as CI sets it, makes rich take a file for a terminal.
    terminal = console.is_interactive and getattr(console.file, "isatty", lambda: False)()
    with _bar(console, title) if terminal else _lines(console, title) as update:
        yield update
    console.print(f"[green]done[/] {title:<26} {time.monotonic() - start:6.0f} s", highlight=False)


@contextmanager
def _lines(console: Console, title: str) -> Iterator[Update]:
    state, over = Lines(title, time.monotonic()), threading.Event()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        console.file.flush()

    def talk() -> None:
        wait = FIRST_S
        while not over.wait(wait):
            say(state.line(time.monotonic()))
            wait = EVERY_S

    say(f"{title} ...")
    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield lambda done, total, note: state.update(done, total, note, time.monotonic())
    finally:
        over.set()
        thread.join(timeout=1)


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Update]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, note="starting")
        yield lambda done, total, note: progress.update(task, completed=done, total=total, note=note)
