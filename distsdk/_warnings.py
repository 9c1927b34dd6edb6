"""Warnings that name the line of the caller outside distsdk."""

from __future__ import annotations

import sys
import warnings

from distsdk.errors import DistWarning


def warn(message: str) -> None:
    """Issue a `DistWarning` for the line of the caller outside distsdk.

    Args:
        message: The cause and the remedy.
    """
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "distsdk":
        level, frame = level + 1, frame.f_back
    warnings.warn(DistWarning(message), stacklevel=level)
