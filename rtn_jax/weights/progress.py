"""The progress bar of a download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
import rich.progress
import rich.text


class DownloadBar:
    """A rich progress bar with the attributes that pooch sets and calls."""

    def __init__(self, bar: rich.progress.Progress, name: str) -> None:
        self._bar, self._total = bar, 0
        self._task = bar.add_task(name, total=None)

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, total: int) -> None:
        self._total = total
        self._bar.update(self._task, total=total or None)

    def update(self, count: int) -> None:
        self._bar.advance(self._task, count)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        self._bar.refresh()


class _Size(rich.progress.DownloadColumn):
    """Bytes so far and in all; nothing while that is not known (pip does not tell)."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        return super().render(task) if task.total else rich.text.Text()


@contextmanager
def download_bar(name: str, show: bool) -> Iterator[DownloadBar | None]:
    """A bar on stderr inside the `with` block, gone afterwards; None unless `show` and stderr is a terminal."""
    console = rich.console.Console(stderr=True)
    if not (show and console.is_terminal):
        yield None
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        _Size(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        yield DownloadBar(bar, name)
