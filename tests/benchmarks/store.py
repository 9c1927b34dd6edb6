"""What a store costs as it grows: how long each operation takes with few blobs and images, and with many.

    python -m tests.benchmarks.store [BLOBS [FOLDER]]

It makes stores of 100 and of BLOBS (100,000) blobs in FOLDER (/dev/shm), and of 10 and 1,000 images, and prints
medians; nothing here passes or fails.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from distsdk import Descriptor, Digest, Store
from distsdk.content.blob import Blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REPEATS = 200


def milliseconds(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Return the median time of one call."""
    times = []
    for number in range(repeats):
        began = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def filled(root: Path, count: int) -> tuple[Store, list[Digest]]:
    """Return a store with so many small blobs; most are written past it, as another tool would."""
    store = Store(root)
    store.ingest([b"the store is there"], "x")
    digests = []
    for number in range(count):
        data = b"%d" % number
        digest = Digest.of(data)
        (root / "blobs/sha256" / digest.hex).write_bytes(data)
        digests.append(digest)
    return store, digests


def row(what: str, values: Iterable[float], unit: str = "ms") -> None:
    """Print a line of two values and their ratio."""
    few, many = values
    print(f"{what:40} {few:10.3f} {many:10.3f} {unit:4} {many / few:8.2f}")


def peak(work: Callable[[], object]) -> float:
    """Return the KiB of memory that a call takes at most."""
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found / 1024


def blobs(folder: Path, few: int, many: int) -> None:
    """Compare stores with few and with many blobs."""
    print(f"\n{'':40} {few:>10,} {many:>10,} {'':4} {'ratio':>8}")
    stores = [filled(folder / str(count), count) for count in (few, many)]

    def iterate(store: Store) -> None:
        for _ in store.blobs():
            pass

    def lease(store: Store) -> None:
        with store.lease():
            pass

    def time_of(what: str, work: Callable[[Store, Digest, int], object], repeats: int = REPEATS) -> None:
        row(
            what,
            [
                milliseconds(lambda n, s=store, d=digests: work(s, d[n % len(d)], n), repeats)  # type: ignore[misc]
                for store, digests in stores
            ],
        )

    time_of("info", lambda store, digest, _: store.info(digest))
    time_of("open and read", lambda store, digest, _: store.open(digest).read())
    time_of("ingest, new", lambda store, _, number: store.ingest(Blob.from_bytes(b"new %d" % number)))
    time_of("ingest, there already", lambda store, _, number: store.ingest(Blob.from_bytes(b"new %d" % number)))
    time_of("active", lambda store, *_: store.active())
    time_of("lease", lambda store, *_: lease(store))
    time_of("blobs, the first one", lambda store, *_: next(store.blobs()), 20)
    time_of("blobs, all", lambda store, *_: iterate(store), 3)
    row("blobs, memory", [peak(lambda store=store: iterate(store)) for store, _ in stores], "KiB")  # type: ignore[misc]
    time_of("verify, all", lambda store, *_: store.verify(), 1)
    time_of("gc, dry run", lambda store, *_: store.gc(dry_run=True), 1)


def images(folder: Path, few: int, many: int) -> None:
    """Compare stores with few and with many images."""
    print(f"\n{'':40} {few:>10,} {many:>10,} {'':4} {'ratio':>8}")
    stores = []
    for count in (few, many):
        store = Store(folder / f"images-{count}")
        info = store.ingest(io.BytesIO(b"{}"), "x")
        descriptor = Descriptor("application/vnd.oci.image.manifest.v1+json", info.digest, info.size)
        for number in range(count):
            store.tag(f"docker.io/library/image-{number}:latest", descriptor)
        stores.append(store)
    name = "docker.io/library/image-{}:latest"

    def time_of(what: str, work: Callable[[Store, int], object]) -> None:
        row(what, [milliseconds(lambda number, s=store: work(s, number), 50) for store in stores])  # type: ignore[misc]

    time_of("tag", lambda store, number: store.tag(name.format(number % 10), descriptor))
    time_of("images", lambda store, _: store.images())
    time_of("gc, dry run", lambda store, _: store.gc(dry_run=True))


def main(many: int = 100_000, folder: str = "/dev/shm") -> None:  # noqa: S108 - memory, where there is such
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=folder if Path(folder).is_dir() else None) as scratch:
        blobs(Path(scratch), 100, many)
        images(Path(scratch), 10, 1000)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100_000, *sys.argv[2:3])
