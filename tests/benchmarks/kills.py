"""Kill whoever ingests, again and again, and hold what is left against sha256sum and jq.

    python -m tests.benchmarks.kills [ROUNDS]

Each round is a process of its own that ingests a blob from a slow source, then a manifest, and names it, and that is
killed in one of four phases: while bytes come in, while they are synchronised, while they get their name, while
`index.json` is written. One half of the rounds is killed right before or after the system call of its phase, the other
half at any time after the phase began. After each: every file among the blobs is what its name says, and the index is
JSON. A blob that was brought to its end has cost no byte twice, but for what was on its way when a process was killed.

It prints what was hit, and fails where something does not hold or a phase was not hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

from distsdk import Descriptor, Digest, Store
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.spec.media_types import OCI_LAYER, OCI_MANIFEST

SIZE = 2_000_000
STEP = 50_000  # bytes that the source gives at a time
PAUSE = 0.001  # seconds before each of them
PHASES = ("download", "fsync", "rename", "index")

#: Where the processes that bring one blob are killed, one after the other.
LIFE = (*3 * ("download",), *2 * ("fsync",), *2 * ("rename",), *3 * ("index",))

#: Before or after which call of a phase.
CALLS = {
    "fsync": ("before", "after"),
    "rename": ("before", "after"),
    "index": ("before", "after", "before-rename", "after-rename"),
}


def manifest_of(layer: Descriptor) -> bytes:
    """Return a manifest with one layer."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer.to_fields()]}).encode()


# The child


def child(root: str, data: str, log: str, phase: str, at: str) -> None:
    """Ingest and name, report each phase as it begins, and stop for good in the one that is to be killed.

    Args:
        root: The store.
        data: A file with the blob.
        log: A file that becomes longer by each byte that is read of it.
        phase: Where to stop; none stops nowhere.
        at: ``before`` or ``after`` the system call; a number of bytes for the download; nothing to go on meanwhile.
    """
    raw = Path(data).read_bytes()
    layer = Descriptor(OCI_LAYER, Digest.of(raw), len(raw))

    def reached(now: str, when: str) -> None:
        if (now, when) == (phase, at):
            os.write(1, b"!\n")
            signal.pause()
        if when != "after":
            os.write(1, f"{now}\n".encode())

    class Slow:
        def __init__(self, offset: int) -> None:
            self.offset = offset

        def read(self, size: int, /) -> bytes:
            time.sleep(PAUSE)
            if phase == "download" and at.isdigit() and self.offset >= int(at):
                reached("download", at)
            chunk = raw[self.offset : self.offset + min(size, STEP)]
            self.offset += len(chunk)
            with Path(log).open("ab", buffering=0) as file:
                file.write(bytes(len(chunk)))
            return chunk

        def close(self) -> None:
            pass

    class Source:
        def open(self, offset: int, end: int | None) -> Slow:
            reached("download", "begins")
            return Slow(offset)

        def stat(self) -> Stat:
            return Stat(len(raw))

    fsync, replace = os.fsync, os.replace
    indexing = False

    def synchronise(file: int) -> None:
        now = "index" if indexing else "fsync"
        reached(now, "before")
        fsync(file)
        reached(now, "after")

    def rename(source: Path, target: Path) -> None:
        now = "index" if target.name == "index.json" else "rename" if "blobs" in target.parts else ""
        reached(now, "before-rename" if now == "index" else "before")
        replace(source, target)
        reached(now, "after-rename" if now == "index" else "after")

    store = Store(root)
    store.images()
    os.fsync, os.replace = synchronise, rename  # type: ignore[assignment]
    with store.lease():
        store.ingest(Blob(Source(), layer.digest, size=layer.size))
        manifest = manifest_of(layer)
        store.ingest(Blob.from_bytes(manifest))
        indexing = True
        store.tag(layer.digest.hex, Descriptor(OCI_MANIFEST, Digest.of(manifest), len(manifest)))
    os.write(1, b"done\n")


# The parent


def fail(message: str) -> NoReturn:
    """End here."""
    sys.exit(f"kills: {message}")


def check(store: Store) -> None:
    """Hold what is there against other tools."""
    blobs = [path for path in (store.root / "blobs").glob("*/*") if path.is_file()]
    if blobs:
        done = subprocess.run(["sha256sum", *blobs], stdout=subprocess.PIPE, check=True, text=True)
        for line in done.stdout.splitlines():
            digest, _, name = line.partition("  ")
            if Path(name).name != digest:
                fail(f"{name} has the digest {digest}")
    for path in blobs:
        if path.stat().st_mode & 0o222:
            fail(f"{path} can be written")
    for name, question in (("index.json", ".manifests"), ("oci-layout", ".imageLayoutVersion")):
        if (store.root / name).exists():
            jq = subprocess.run(["jq", "-e", question, store.root / name], stdout=subprocess.DEVNULL, check=False)
            if jq.returncode:
                fail(f"jq cannot read {name}")
    for name, descriptor in store.images().items():
        for layer in store.blob(descriptor.digest).json()["layers"]:
            if str(store.info(layer["digest"]).digest.hex) != name:
                fail(f"{name} stands for something else")


def run(root: Path, data: Path, log: Path, phase: str, at: str, chance: random.Random) -> str:
    """Run a child and kill it.

    Returns:
        The phase that it was in when it was killed; ``done`` where it was faster.
    """
    command = [sys.executable, "-m", "tests.benchmarks.kills", "child", *map(str, (root, data, log)), phase, at]
    seen = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word = line.strip()
            if word == "!":
                seen = phase
                break
            seen = word or seen
            if at == "" and word == phase:
                # Bytes take most of the time, the other phases next to none.
                time.sleep(chance.random() * (PAUSE * SIZE / STEP if phase == "download" else 0.0005))
                break
        if phase:
            process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    if process.returncode not in {0, -signal.SIGKILL}:
        fail(f"the child ended with {process.returncode}")
    return (["", seen, *rest])[-1] if at == "" else seen


class Life:
    """A blob from its first byte to its name, with what it costs.

    Args:
        scratch: A folder for the files of this.
        store: Where it goes.
        raw: Its bytes.
    """

    def __init__(self, scratch: Path, store: Store, raw: bytes) -> None:
        self.store = store
        self.kills = 0
        self._raw = raw
        self._layer = Descriptor(OCI_LAYER, Digest.of(raw), len(raw))
        self._manifest = Digest.of(manifest_of(self._layer))
        self._files = (store.root, scratch / "data", scratch / "log")
        self._files[1].write_bytes(raw)
        self._files[2].write_bytes(b"")

    def can_reach(self, phase: str) -> bool:
        """Whether a process that goes on comes through this phase."""
        there = {info.digest for info in self.store.blobs()}
        return {"download": self._layer.digest not in there, "index": True}.get(phase, self._manifest not in there)

    def kill(self, phase: str, at: str, chance: random.Random) -> str:
        """Go on, be killed, and return the phase it was in."""
        self.kills += 1
        hit = run(*self._files, phase, at, chance)
        check(self.store)
        return hit

    def end(self) -> float:
        """Go on to the end, and return how many times its size was read in all."""
        if run(*self._files, "", "", random.Random()) != "done":
            fail("a process that nobody killed did not end")
        check(self.store)
        store, digest = self.store, self._layer.digest
        if self._raw != store.open(digest, verify=True).read() or digest.hex not in store.images():
            fail("what was ingested is not there")
        read = self._files[2].stat().st_size
        if not SIZE <= read <= SIZE + self.kills * STEP:
            fail(f"{read} bytes were read of a blob of {SIZE}, and it was killed {self.kills} times")
        if store.active() or store.gc().size:
            fail("something was left")
        if left := {path.name for path in (store.root / "ingest").iterdir()} - {"door"}:
            fail(f"{', '.join(left)} was left")
        return read / SIZE


def main(rounds: int = 200) -> None:
    """Kill, check, and print."""
    chance = random.Random()
    hit: Counter[str] = Counter()
    costs: list[float] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch, "store"))
        life = None
        for number in range(rounds):
            phase = LIFE[number % len(LIFE)]
            exact = number // len(LIFE) % 2 == number % 2
            at = (str(chance.randrange(SIZE)) if phase == "download" else chance.choice(CALLS[phase])) if exact else ""
            if life is not None and (number % len(LIFE) == 0 or not life.can_reach(phase)):
                costs.append(life.end())
                life = None
            life = life or Life(Path(scratch), store, chance.randbytes(SIZE))
            hit[life.kill(phase, at, chance)] += 1
        if life is not None:
            costs.append(life.end())
    counted = ", ".join(f"{hit[phase]} in {phase}" for phase in [*PHASES, "done"])
    print(
        f"{rounds} kills in {time.monotonic() - began:.0f} s: {counted}; "
        f"{len(costs)} blobs, of which {max(costs, default=0):.2f} times the size was read at most"
    )
    if missed := [phase for phase in PHASES if not hit[phase]]:
        fail(f"no process was killed in the phase {', '.join(missed)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
