"""Entry point of the ``distsdk`` command. An interrupt, even during imports, ends it without a traceback."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading


def main() -> None:
    """Run the command line and exit with its code."""
    # Objects made by imports stay until the end. Not searching them for garbage takes start and end together from 143
    # to 117 ms.
    gc.set_threshold(100_000)
    # During an import, an interrupt may turn into any error: there the signal's default action ends the process.
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupts:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from distsdk.cli import run

        if interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    gc.freeze()
    if threading.active_count() > 1:
        # After a signal or a closed pipe, worker threads still run. One inside a C library, such as OpenSSL, now and
        # then causes a segmentation fault while the interpreter shuts down.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
