"""The yardsticks: the least that does the same work with requests.

``prototypes.py blobs THREADS URL...`` reads blobs to nowhere and holds each against the SHA-256 at the end of its URL;
``prototypes.py layout FOLDER THREADS FSYNC URL...`` writes blobs to files of a folder, which take their names when they
are right; ``prototypes.py documents FILE`` gets every URL in a file, as anybody would.
"""

from __future__ import annotations

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests


def blob(session: requests.Session, url: str) -> bool:
    """Read one blob into a reused buffer, hash it, and tell whether it is the right one."""
    response = session.get(url, stream=True)  # kept: its end would close the connection
    body = response.raw._fp
    assert body is not None
    hasher = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    while count := body.readinto(buffer):
        hasher.update(view[:count])
    return url.endswith(hasher.hexdigest())


def saved(session: requests.Session, url: str, folder: Path, *, sync: bool) -> bool:
    """Write one blob to a file, hash it, and let it take its name if it is the right one."""
    response = session.get(url, stream=True)
    body = response.raw._fp
    assert body is not None
    hasher = hashlib.sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    name = url.rpartition(":")[2]
    with (folder / f"{name}.part").open("wb", buffering=0) as file:
        while count := body.readinto(buffer):
            hasher.update(view[:count])
            file.write(view[:count])
        if sync:
            os.fsync(file.fileno())
    (folder / f"{name}.part").rename(folder / name)
    return name == hasher.hexdigest()


def main(kind: str, *arguments: str) -> bool:
    """Do the work."""
    session = requests.Session()
    if kind == "layout":
        folder, threads, sync, *urls = arguments
        Path(folder).mkdir(parents=True)
        with ThreadPoolExecutor(int(threads)) as pool:
            return all(pool.map(lambda url: saved(session, url, Path(folder), sync=sync == "fsync"), urls))
    if kind == "documents":
        return all(session.get(url).content for url in Path(arguments[0]).read_text().split())
    session.trust_env = False
    threads, *urls = arguments
    with ThreadPoolExecutor(int(threads)) as pool:
        return all(pool.map(lambda url: blob(session, url), urls))


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
