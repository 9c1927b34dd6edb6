"""The ``distsdk`` command's way in: interrupted at any moment, imports included, it ends without a traceback."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading


def main() -> None:
    """Run the command line and exit with its code."""
    # What imports make is there to stay: not to look through it for garbage saves a fifth of what starting and ending
    # take (143 ms against 117).
    gc.set_threshold(100_000)
    # In the middle of an import an interrupt may come out as any error: there the signal itself ends the process.
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
        # Given up in the middle, by a signal or a closed pipe: a thread that is inside a C library, OpenSSL say, while
        # the interpreter is taken down around it, now and then ends all in a segmentation fault.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
