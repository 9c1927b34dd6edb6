"""How values are worded in messages and in one-line reprs: short, and safe to print."""

from __future__ import annotations

import math

#: Characters of foreign text that a message or a repr shows.
_SHOWN = 80


def quoted(text: str, limit: int = _SHOWN) -> str:
    """Return ``text`` in quotes, escaped for a terminal, and cut after ``limit`` characters."""
    return f"'{shortened(text, limit)}'"


def shortened(text: str, limit: int = _SHOWN) -> str:
    """Return ``text`` escaped for a terminal, and cut after ``limit`` characters."""
    return printable(text) if len(text) <= limit else printable(text[:limit]) + "…"


def human_size(size: int) -> str:
    """Return a number of bytes for people, in binary units: ``1,783 bytes``, ``74.3 MiB``."""
    if size < 10_000:
        return "1 byte" if size == 1 else f"{size:,} bytes"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:,.1f} PiB"


def human_time(seconds: float) -> str:
    """Return a span of time for people, rounded up: ``45 seconds``, ``20 minutes``, ``3 hours``, ``1,157 days``."""
    for unit, length, most in (("second", 1, 2 * 60), ("minute", 60, 2 * 3600), ("hour", 3600, 2 * 86400)):
        if seconds <= most:
            return counted(math.ceil(seconds / length), unit)
    return counted(math.ceil(seconds / 86400), "day")


def counted(number: int, noun: str) -> str:
    """Return ``1 layer`` or ``7 layers``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act on rather than show.

    Control characters, line breaks, bidirectional overrides and lone surrogates are written as Python writes them in a
    string literal; all other text, letters of any script included, stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
