"""Progress bars."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


#: Columns for percentage, sizes, times and rate. tqdm cuts the end of a line that is longer than the terminal, and the
#: numbers are there.
_NUMBERS_WIDTH = 54

#: Characters of a name that a bar shows on any terminal.
_MIN_NAME_WIDTH = 16


@contextlib.contextmanager
def progress_bar(
    name: Callable[[], str], total: Callable[[], int | None], *, shown: bool | Callable[[int], object]
) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes the number of bytes present; those of its first call do not count for the rate.

    Args:
        name: Returns the name of the bar; called when the bar is first drawn. A long name is shortened at its start.
        total: Returns the expected bytes, or None if they are unknown.
        shown: Whether to show a bar. None is shown if ``DISTSDK_DISABLE_PROGRESS`` is set in the environment or stderr
            is not a terminal. A function is called with the bytes instead.
    """
    if callable(shown):
        yield shown
        return
    if not shown or os.environ.get("DISTSDK_DISABLE_PROGRESS"):
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    bar: tqdm[Any] | None = None

    def at(count: int) -> None:
        nonlocal bar
        if bar is None:
            whole = total()
            # tqdm scales numbers by 1024 but leaves the unit off the first two: 3.1MiB/28.2MiB.
            done, limits = ("", "") if whole is None else ("{percentage:3.0f}%|{bar}| ", "/{total_fmt}{unit}")
            left = "{elapsed}, {rate_fmt}" if whole is None else "{elapsed}<{remaining}, {rate_fmt}"
            bar = tqdm(
                desc=_shortened(name()),
                total=whole,
                initial=count,
                unit="iB",
                unit_scale=True,
                unit_divisor=1024,
                bar_format=f"{{desc}}: {done}{{n_fmt}}{{unit}}{limits} [{left}]",
                disable=None,
            )
        bar.update(count - bar.n)

    try:
        yield at
    finally:
        if bar is not None:
            bar.close()


def _shortened(name: str) -> str:
    """Return a name, or its end if the terminal has no room for it: a path's last directories, a reference's tag."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):  # a notebook, a closed stderr
        return name
    width = max(columns - _NUMBERS_WIDTH, _MIN_NAME_WIDTH)
    return name if not columns or len(name) <= width else f"…{name[1 - width :]}"
