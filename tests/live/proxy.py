#!/usr/bin/env python3
"""Bad connections to the live stack's localhost:5000: a TCP proxy that treats those of each port in another way.

Ports `CUT` and `RESET` end a connection after so many bytes of answers as the file `cut-bytes` says at its beginning:
the one politely, as a proxy does that is restarted, the other with a reset, as a firewall does. Port `PACED` passes
20 MB in a second, whatever is asked and however often: the kernel holds the socket to it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from pathlib import Path

ADDRESS = "127.0.0.1"
REGISTRY = (ADDRESS, 5000)
CUT, RESET, PACED = 5010, 5011, 5012
PACE = 20_000_000  # bytes in a second
SO_MAX_PACING_RATE = 47  # socket(7); Python has no name for it
BUFFER = 1 << 18


def end(connection: socket.socket) -> None:
    """End a connection for both sides, and wake whoever reads from it."""
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)


def pass_on(source: socket.socket, target: socket.socket, most: int | None = None) -> tuple[int, str]:
    """Pass bytes on until there are no more, or `most` were; return how many, and who ended it."""
    buffer = memoryview(bytearray(BUFFER))
    count = 0
    while most is None or count < most:
        try:
            size = source.recv_into(buffer, BUFFER if most is None else min(BUFFER, most - count))
        except OSError:
            size = 0
        if not size:
            return count, "source"
        try:
            target.sendall(buffer[:size])
        except OSError:
            return count, "target"
        count += size
    return count, "proxy"


def serve(client: socket.socket, port: int, state: Path) -> None:
    """Serve one connection, and write a line about it when it is over."""
    most = None if port == PACED else int((state / "cut-bytes").read_text())
    with client, socket.create_connection(REGISTRY) as registry:
        if port == PACED:
            client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, PACE)

        def ask() -> None:
            pass_on(client, registry)
            end(registry)

        upwards = threading.Thread(target=ask, daemon=True)
        upwards.start()
        sent, who = pass_on(registry, client, most)
        if who == "proxy" and port == RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is resetting then
            client.shutdown(socket.SHUT_RD)
        else:
            end(client)
        end(registry)
        upwards.join()  # a socket from which a thread still reads would not be closed
        with (state / "connections.jsonl").open("a") as log:
            log.write(json.dumps({"port": port, "sent": sent, "cut": who == "proxy"}) + "\n")


def main(state: Path) -> None:
    """Listen until the process is stopped."""

    def accept(listener: socket.socket, port: int) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, port, state), daemon=True).start()

    threads = [
        threading.Thread(target=accept, args=(socket.create_server((ADDRESS, port)), port))
        for port in (CUT, RESET, PACED)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
