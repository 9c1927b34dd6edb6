"""Tracebacks in notebooks: the line of the user's code that failed, and the message."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

    from distsdk.errors import DistError


def render(error: DistError, alone: DistError) -> list[str]:
    """Return the traceback of an error as IPython shows it, cut down to one frame and without the causes.

    Args:
        error: As it was caught.
        alone: A copy of it without causes and without a traceback.
    """
    frames = _user_frame(error.__traceback__)
    shell = None
    if ipython := sys.modules.get("IPython"):
        shell = ipython.get_ipython()
    if shell is None:
        return traceback.format_exception(type(alone), alone, frames)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(alone), alone, frames, tb_offset=0)
    return lines


def _user_frame(frames: TracebackType | None) -> TracebackType | None:
    """Return the innermost frame of the user's code alone; all frames where there is none."""
    found, current = None, frames
    while current is not None:
        if _is_user_code(current.tb_frame.f_code, str(current.tb_frame.f_globals.get("__name__", ""))):
            found = current
        current = current.tb_next
    return frames if found is None else TracebackType(None, found.tb_frame, found.tb_lasti, found.tb_lineno)


def _is_user_code(code: CodeType, module: str) -> bool:
    if module.partition(".")[0] == "distsdk":
        return False
    file = Path(code.co_filename)
    installed = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return not (code.co_filename.startswith("<frozen") or any(file.is_relative_to(path) for path in installed))
