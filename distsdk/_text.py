"""Text of values in messages and one-line reprs: short, and safe to print."""

from __future__ import annotations

import math

#: Characters of foreign text to show at most in a message or a repr.
_SHOWN = 80


def quoted(text: str, limit: int = _SHOWN) -> str:
    """Return ``text`` in quotes, escaped for a terminal.

    Args:
        text: Any text.
        limit: Characters after which it is cut.
    """
    return f"'{shortened(text, limit)}'"


def shortened(text: str, limit: int = _SHOWN) -> str:
    """Return ``text`` escaped for a terminal.

    Args:
        text: Any text.
        limit: Characters after which it is cut.
    """
    return printable(text) if len(text) <= limit else printable(text[:limit]) + "…"


def human_size(size: int) -> str:
    """Return a size in binary units: ``1,783 bytes``, ``74.3 MiB``.

    Args:
        size: In bytes.
    """
    if size < 10_000:
        return "1 byte" if size == 1 else f"{size:,} bytes"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:,.1f} PiB"


def human_time(seconds: float) -> str:
    """Return a duration, rounded up: ``45 seconds``, ``20 minutes``, ``3 hours``, ``1,157 days``.

    Args:
        seconds: The duration.
    """
    for unit, length, most in (("second", 1, 2 * 60), ("minute", 60, 2 * 3600), ("hour", 3600, 2 * 86400)):
        if seconds <= most:
            return counted(math.ceil(seconds / length), unit)
    return counted(math.ceil(seconds / 86400), "day")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 layer`` or ``7 layers``.

    Args:
        number: How many.
        noun: In the singular.
    """
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """Escape the characters of ``text`` that could control a terminal.

    Control characters, line breaks, bidirectional overrides and lone surrogates are written as in a Python string
    literal. Letters of all scripts are kept.

    Args:
        text: Any text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
