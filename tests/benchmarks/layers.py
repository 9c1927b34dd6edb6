"""What it costs to look into a layer: the first pass, reads from its index, and large listings.

    python -m tests.benchmarks.layers [FOLDER [MEGABYTES]]

It packs the files of FOLDER (/usr) until the layer has so many MEGABYTES (100), serves it on loopback, and prints
figures beside those of gunzip and hashing in the same process; nothing here passes or fails.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import statistics
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from distsdk import connect
from distsdk.content.blob import Blob
from distsdk.layers import toc
from distsdk.layers.cache import Cache
from distsdk.layers.layer import LayerFiles
from distsdk.layers.member import Kind, Member
from distsdk.layers.merged import Overlay
from distsdk.layers.seek_index import SeekIndex, Way
from distsdk.spec.digest import Digest
from distsdk.testing import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distsdk.layers.layer import MemberFile

REPEATS = 3
READS = 60
READ = 4096
ENTRIES = 100_000


def archive(folder: Path, size: int) -> bytes:
    """Return a gzip layer of about ``size`` bytes."""
    packed, file = bytearray(), io.BytesIO()
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 50_000_000:
                continue
            tar.add(path)
            packed += compressor.compress(file.getvalue())
            file.seek(0)
            file.truncate()
            if len(packed) > size:
                break
        tar.addfile(tarfile.TarInfo("last"))
    return bytes(packed + compressor.compress(file.getvalue()) + compressor.flush())


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of a call, the least of some."""
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def gunzip_and_hash(data: bytes) -> None:
    """Do what nobody can do without: unpack a layer, and take both its digests."""
    packed, unpacked, inflater = hashlib.sha256(), hashlib.sha256(), zlib.decompressobj(31)
    for at in range(0, len(data), 65536):
        piece = data[at : at + 65536]
        packed.update(piece)
        unpacked.update(inflater.decompress(piece))


def row(what: str, value: float, unit: str, remark: str = "") -> None:
    """Print a line."""
    print(f"{what:44} {value:12,.3f} {unit:5} {remark}")


def first_pass(data: bytes) -> SeekIndex:
    """Print what a pass costs, and return what it finds."""
    found: list[SeekIndex] = []
    least = seconds(lambda: gunzip_and_hash(data))
    build = seconds(
        lambda: found.append(SeekIndex.build(Blob.from_bytes(data), "application/octet-stream", copy=io.BytesIO))
    )
    index = found[-1]
    unpacked = sum(span.size for span in index.spans)
    print(f"{len(data):,} bytes of gzip, {unpacked:,} unpacked, {len(index.members):,} members")
    row("gunzip, and both digests", least, "s")
    row("the first pass, members and spans", build, "s", f"{build / least:.2f} times that")
    row("the index as a file", len(index.to_bytes()) / 1e6, "MB", f"{len(index.spans)} spans")
    row("reading that file", 1000 * seconds(lambda: SeekIndex.from_bytes(index.to_bytes(), index.digest)), "ms")
    return index


def reads(data: bytes, folder: Path) -> None:
    """Print what reads from anywhere cost."""
    source = random.Random(1)
    cache = Cache(folder / "cache")
    with Registry() as registry:
        descriptor = registry.add_blob("r", data)
        remote = connect(registry.locator("r"))
        LayerFiles(remote.fetch(descriptor), descriptor, cache=cache).prepare()
        asked, times = [], []
        for _ in range(READS):
            layer = LayerFiles(remote.fetch(descriptor), descriptor, cache=cache)
            member = source.choice([m for m in layer.members if m.kind is Kind.FILE and m.size > READ])
            registry.reset()
            with layer.open(member) as file:
                file.seek(source.randrange(member.size - READ))
                began = time.perf_counter()
                file.read(READ)
                times.append(time.perf_counter() - began)
            asked.append(registry.count_bytes())
    row(
        f"{READ} bytes anywhere, over the wire", statistics.median(asked) / 1e6, "MB", f"{max(asked) / 1e6:.2f} at most"
    )
    row(f"{READ} bytes anywhere, after open", 1000 * statistics.median(times), "ms", f"{1000 * max(times):.1f} at most")


def entries() -> Iterator[Member]:
    """Yield many entries."""
    for number in range(1000):
        yield Member(path=b"usr/share/doc/package-%d" % number, kind=Kind.FOLDER, mode=0o755)
    for number in range(ENTRIES - 1000):
        path = b"usr/share/doc/package-%d/file-%d.html" % (number % 1000, number)
        yield Member(path=path, kind=Kind.FILE, size=number, stored=number, uname=b"root", mtime=10**18 + number)


class _Members:
    """A layer of which only the members are wanted."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Never."""
        raise AssertionError


def listings() -> None:
    """Print what a listing of many entries costs, from an index and from a table of contents."""
    members = tuple(entries())
    digest = Digest.of(b"")
    file = SeekIndex(digest, 0, digest, Way.PLAIN, members, ()).to_bytes()

    def walk(members: Sequence[Member]) -> None:
        assert len(list(Overlay([_Members(members)]).walk())) >= ENTRIES

    row(
        "listing 100,000 entries, from an index",
        seconds(lambda: walk(SeekIndex.from_bytes(file, digest).members)),
        "s",
        "CPU",
    )
    table = {
        "version": 1,
        "entries": [
            {
                "name": member.path.decode(),
                "type": "reg" if member.kind is Kind.FILE else "dir",
                "size": number + 1,
                "modtime": f"2026-07-11T00:00:{number % 60:02}Z",
                "mode": 420,
                "offset": 200 * number + 100,
                "digest": str(Digest.of(b"%d" % number)),
                "chunkDigest": str(Digest.of(b"%d" % number)),
            }
            for number, member in enumerate(members)
        ],
    }
    raw = json.dumps(table, separators=(",", ":")).encode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(raw)
        made.addfile(info, io.BytesIO(raw))
    packed, start = gzip.compress(tar.getvalue()), 200 * ENTRIES + 200
    place = toc.TocLocation("gzip", start, start + len(packed), Digest.of(raw))
    del table, tar
    work = seconds(lambda: walk(toc.read_toc(place, lambda *_: packed).members))
    row("… from a table of contents (eStargz)", work, "s", f"CPU, {len(packed) / 1e6:.1f} MB of it")


def main() -> None:
    """Print all of it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("/usr")
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    data = archive(folder, size * 10**6)
    first_pass(data)
    with tempfile.TemporaryDirectory() as scratch:
        reads(data, Path(scratch))
    listings()


if __name__ == "__main__":
    main()
