"""The folder in which what was learnt about layers is kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from distsdk.errors import Unsafe
from distsdk.layers import cache
from distsdk.layers.cache import Cache
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A, B, C = (Digest.of(name) for name in (b"a", b"b", b"c"))
is_posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX's")


def put(kept: Cache, digest: Digest, data: bytes, kind: str = "index1") -> None:
    """Write a file."""
    with kept.write(digest, kind) as file:
        file.write(data)


def names(kept: Cache) -> set[str]:
    """Return the names in the folder, locks aside."""
    return {path.name for path in kept.folder.iterdir() if path.suffix != ".lock"}


def test_what_is_written_is_there(tmp_path: Path) -> None:
    """Under the digest and the kind; nothing else is, and nothing is made before."""
    kept = Cache(tmp_path / "x" / "cache")
    assert "at most 4.0 GiB" in repr(kept)
    assert kept.load(A, "index1") is None
    assert (0, 0) == (kept.size(), kept.clear())
    assert not kept.folder.exists()
    put(kept, A, b"one")
    put(kept, A, b"other", "copy1")
    assert (b"one", b"other", None, None) == (
        kept.load(A, "index1"),
        kept.load(A, "copy1"),
        kept.load(B, "index1"),
        kept.load(A, "index2"),
    )
    put(kept, A, b"newer")
    assert b"newer" == kept.load(A, "index1")
    assert len(b"newer" + b"other") == kept.size()


def test_what_was_not_finished_is_not_there(tmp_path: Path) -> None:
    """An error, or an end before its time, leaves what was there before."""
    kept = Cache(tmp_path)
    put(kept, A, b"old")

    def fail() -> None:
        with kept.write(A, "index1") as file:
            file.write(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (b"old", 1) == (kept.load(A, "index1"), len(names(kept)))


def test_a_file_that_was_written_can_be_read_on(tmp_path: Path) -> None:
    """By whoever wrote it, whether it is still kept or not."""
    for kept in (Cache(tmp_path / "a"), Cache(tmp_path / "b", limit=3)):
        with kept.write(A, "copy1") as file:
            file.write(b"content")
            own = os.dup(file.fileno())
        kept.clear()
        assert b"content" == os.pread(own, 100, 0)
        os.close(own)


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    """Reading counts as using; the limit holds after every write."""
    kept = Cache(tmp_path, limit=100)
    put(kept, A, bytes(40))
    put(kept, B, bytes(40))
    for age, digest in ((100, A), (50, B)):
        os.utime(kept._path(digest, "index1"), (1_700_000_000 - age,) * 2)
    assert kept.load(A, "index1") is not None  # now B is the one
    put(kept, C, bytes(40))
    assert (None, 80) == (kept.load(B, "index1"), kept.size())
    assert kept.load(A, "index1")
    assert kept.load(C, "index1")


def test_what_is_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    """And nothing else is removed for it."""
    kept = Cache(tmp_path, limit=100)
    put(kept, A, bytes(60))
    put(kept, B, bytes(101))
    assert (60, None) == (kept.size(), kept.load(B, "index1"))


def test_what_a_killed_process_left_is_removed_in_the_end(tmp_path: Path) -> None:
    """A day later; before, somebody may be writing it."""
    kept = Cache(tmp_path, limit=100)
    old, new = (tmp_path / f"{name}{cache._BEGUN}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(bytes(90))
    os.utime(old, (1_700_000_000,) * 2)
    put(kept, A, b"x")
    assert {new.name, kept._path(A, "index1").name} == names(kept)


def test_clearing_empties_it(tmp_path: Path) -> None:
    """And says how many bytes that were."""
    kept = Cache(tmp_path)
    put(kept, A, bytes(30))
    put(kept, B, bytes(12))
    with kept.alone(A):
        pass
    assert (42, []) == (kept.clear(), list(tmp_path.iterdir()))


@is_posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could plant what layers seem to hold."""
    tmp_path.chmod(mode)
    kept = Cache(tmp_path)
    with pytest.raises(Unsafe, match="chmod 700"):
        kept.load(A, "index1")
    with pytest.raises(Unsafe, match="chmod 700"):
        put(kept, A, b"x")
    assert [] == list(tmp_path.iterdir())


@is_posix
def test_a_folder_of_its_own_is_made_for_the_user_alone(tmp_path: Path) -> None:
    """Whatever the umask says."""
    before = os.umask(0)
    try:
        kept = Cache(tmp_path / "new")
        put(kept, A, b"x")
    finally:
        os.umask(before)
    assert (0o700, 0o600) == (kept.folder.stat().st_mode & 0o777, kept._path(A, "index1").stat().st_mode & 0o777)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """By an error of ours."""
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(Unsafe):
        Cache(path).load(A, "index1")


@is_posix
def test_links_pipes_and_files_that_others_may_write_are_passed_over(tmp_path: Path) -> None:
    """As if nothing were there; what is written takes their place."""
    kept = Cache(tmp_path / "cache")
    put(kept, B, b"x")
    path = kept._path(A, "index1")
    planted = tmp_path / "planted"
    planted.write_bytes(b"planted")

    def plant(mode: int, owner: int = -1) -> None:
        path.write_bytes(b"planted")
        path.chmod(mode)
        os.chown(path, owner, owner)

    kinds: list[Callable[[], object]] = [
        lambda: path.symlink_to(planted),
        lambda: path.hardlink_to(planted),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: plant(0o660),
        lambda: plant(0o606),
    ]
    if os.geteuid() == 0:
        kinds.append(lambda: plant(0o600, 4711))
    for make in kinds:
        make()
        assert kept.load(A, "index1") is None
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        put(kept, A, b"own")
        assert (b"own", b"planted") == (kept.load(A, "index1"), planted.read_bytes())
        path.unlink()


def test_what_is_too_large_for_memory_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made anew instead."""
    kept = Cache(tmp_path)
    put(kept, A, bytes(101))
    monkeypatch.setattr(cache, "MAX_LOADED", 100)
    assert kept.load(A, "index1") is None


def test_discarding_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    """Both are fine."""
    kept = Cache(tmp_path)
    put(kept, A, b"x")
    for _ in range(2):
        kept.discard(A, "index1")
        assert kept.load(A, "index1") is None


def test_one_at_a_time_for_a_layer(tmp_path: Path) -> None:
    """Others wait, other layers do not."""
    order: list[str] = []
    inside, release = threading.Event(), threading.Event()

    def first() -> None:
        with Cache(tmp_path).alone(A):
            inside.set()
            release.wait(60)
            order.append("first")

    def second() -> None:
        with Cache(tmp_path).alone(A):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(60)
    threads[1].start()
    with Cache(tmp_path).alone(B):
        order.append("another layer")
    release.set()
    for thread in threads:
        thread.join(60)
    assert ["another layer", "first", "second"] == order


def test_nobody_waits_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the lock may have been stopped: then the work is done twice."""
    monkeypatch.setattr(cache, "LOCK_TIMEOUT", 0)
    kept = Cache(tmp_path)
    with kept.alone(A), kept.alone(A):
        put(kept, A, b"twice")
    assert b"twice" == kept.load(A, "index1")


WRITER = """
import sys
from distsdk.layers.cache import Cache
from distsdk.spec.digest import Digest
kept = Cache(sys.argv[1], limit=20_000)
for number in range(60):
    digest = Digest.of(b"%d" % (number % 7))
    with kept.write(digest, "index1") as file:
        file.write(bytes([number]) * 4000)
    data = kept.load(digest, "index1")
    assert data is None or (len(data) == 4000 and len(set(data)) == 1), data
"""


@pytest.mark.slow
def test_processes_share_it(tmp_path: Path) -> None:
    """What is read is whole, whoever writes, removes and reads at the same time, and the limit holds in the end."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    try:
        assert [0, 0, 0] == [writer.wait(120) for writer in writers]
    finally:
        for writer in writers:
            with suppress(OSError):
                writer.kill()
    assert Cache(tmp_path).size() <= 20_000
    assert not [name for name in names(Cache(tmp_path)) if name.endswith(cache._BEGUN)]
