"""Progress bars."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(
    name: Callable[[], str], total: Callable[[], int | None], *, shown: bool | Callable[[int], object]
) -> Iterator[Callable[[int], object]]:
    """Yield a function that takes how many bytes are here: what it is told first were here before.

    Args:
        name: What the bar is for; asked when something is to be shown.
        total: Bytes there will be.
        shown: Whether there is a bar at all; ``DISTSDK_DISABLE_PROGRESS`` in the environment says no, and so does a
            stderr that is no terminal. A function is called with the bytes instead.
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
                desc=name(),
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
