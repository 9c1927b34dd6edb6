"""Fuzz one target with atheris: ``python tests/fuzz/run.py TARGET [libFuzzer's options, folders and files]``.

It goes on until it is stopped or its time is over (``-max_total_time=60``), and keeps in the first folder what it
learns. With files it runs each of them once, and that repeats a finding:
``python tests/fuzz/run.py link .fuzz/link/found/crash-…``.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zlib
from pathlib import Path

import atheris

#: One input in so many is also grown: that takes a thousand times as long.
GROWN = 512


def main(name: str, options: list[str]) -> None:
    """Import what is to be fuzzed, instrumented, and hand over to libFuzzer."""
    with atheris.instrument_imports(include=["distsdk"]):
        target = importlib.import_module("targets").TARGETS[name]
    repeats = any(Path(option).is_file() for option in options)

    def run(data: bytes) -> None:
        target(data)
        if repeats or zlib.crc32(data) % GROWN == 0:
            target.grown(data)

    with tempfile.NamedTemporaryFile("w", suffix=".dict") as words:
        # https://llvm.org/docs/LibFuzzer.html#dictionaries
        for word in target.words:
            words.write('"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in word.encode())))
        words.flush()
        atheris.Setup([sys.argv[0], f"-dict={words.name}", *options], run)
        atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
