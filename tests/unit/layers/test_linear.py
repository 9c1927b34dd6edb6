"""The work that layers take is linear in their entries and names, however these are chosen: held by counting calls."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from distsdk.errors import LimitExceeded
from distsdk.layers.lookups import Lookups
from distsdk.layers.unpack import apply, unpack

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

    Info = tuple[tarfile.TarInfo, bytes]
    Entry = Callable[..., Info]

ON_DISK = pytest.mark.skipif(sys.platform == "win32", reason="nothing is unpacked on Windows")

#: Calls that an entry, and each name in its path, may take on disk.
CALLS = 40


def calls(work: Callable[[], object], module: str) -> int:
    """Return how many functions a module of ``distsdk.layers`` calls, those of the system and of Python included."""
    file = import_module(f"distsdk.layers.{module}").__file__
    count = 0

    def profile(frame: Any, event: str, _: object) -> None:  # noqa: ANN401 - a frame
        nonlocal count
        if event in {"call", "c_call"} and frame.f_code.co_filename == file:
            count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def names(entries: list[Info]) -> int:
    """Return the number of entries and of the names in their paths and links."""
    return sum(2 + info.name.count("/") + info.linkname.count("/") for info, _ in entries)


def opaque(entry: Entry) -> list[Info]:
    """Return many opaque whiteouts of one folder, in which the layer itself has many files."""
    return [*(entry(f"a/{n}") for n in range(800)), *(entry("a/.wh..wh..opq") for _ in range(800))]


def opaque_before_each(entry: Entry) -> list[Info]:
    """Return an opaque whiteout of one folder before each of its files."""
    return [found for n in range(800) for found in (entry("a/.wh..wh..opq"), entry(f"a/{n}"))]


def opaque_root(entry: Entry) -> list[Info]:
    """Return many opaque whiteouts of the root, below which the layer itself has many folders."""
    return [*(entry(f"{n}/x") for n in range(400)), *(entry(".wh..wh..opq") for _ in range(400))]


def by_name(entry: Entry) -> list[Info]:
    """Return many whiteouts of one folder, in which the layer itself has many files."""
    return [*(entry(f"a/b/{n}") for n in range(800)), *(entry("a/.wh.b") for _ in range(800))]


def from_below(entry: Entry) -> list[Info]:
    """Return opaque whiteouts of folders within folders, the innermost one, which has many files, first."""
    path = "/".join("d" * 60)
    return [
        entry("link", "symlink", to=path),
        *(entry(f"link/{n}") for n in range(2000)),
        *(entry(f"{path[: 2 * depth + 1]}/.wh..wh..opq") for depth in reversed(range(60))),
    ]


WHITEOUTS = [opaque, opaque_before_each, opaque_root, by_name, from_below]


@ON_DISK
@pytest.mark.parametrize("make", WHITEOUTS)
def test_whiteouts_are_applied_in_linear_work(
    make: Callable[[Entry], list[Info]], entry: Entry, layer: Callable[..., bytes], tmp_path: Path
) -> None:
    """Whiteouts find each folder empty of lower files after the first one, and do not look again."""
    entries = make(entry)
    packed = layer(*entries)
    assert calls(lambda: apply(tmp_path / "target", packed), "target") <= CALLS * names(entries)


@ON_DISK
def test_whiteouts_leave_what_their_layer_brings(entry: Entry, layer: Callable[..., bytes], tmp_path: Path) -> None:
    """Repeated whiteouts remove what lower layers have, once, and nothing of their own layer, folders included."""
    lower = layer(*(entry(f"a/{name}") for name in ("old", "b/old", "b/c/old", "e/old")))
    upper = layer(
        entry("a/b/c/new"),
        entry("a/d/e/new"),
        entry("a/b/.wh..wh..opq"),
        entry("a/.wh..wh..opq"),
        entry("a/b/later"),
        entry("a/f", "folder"),
        entry(".wh.a"),
        entry("a/.wh.f"),
        entry("a/.wh..wh..opq"),
        entry("a/g/h"),
        entry("a/g/.wh..wh..opq"),
        entry(".wh..wh..opq"),
    )
    unpack([lower, upper], tmp_path / "target")
    found = {str(path.relative_to(tmp_path / "target")) for path in (tmp_path / "target").rglob("*")}
    assert {"a", "a/b", "a/b/c", "a/b/c/new", "a/d", "a/d/e", "a/d/e/new", "a/b/later", "a/f", "a/g", "a/g/h"} == found
    # What one layer brings is lower for the next one.
    unpack([lower, upper, layer(entry("a/.wh..wh..opq"), entry("a/b/.wh.c"))], tmp_path / "another")
    assert ["a"] == [str(path.relative_to(tmp_path / "another")) for path in (tmp_path / "another").rglob("*")]


def chain(entry: Entry, links: int = 38, depth: int = 50) -> tuple[list[Info], str]:
    """Return symbolic links, each of which leads through the one before and then through folders, and the last one."""
    there, back = "/".join("d" * depth), "/".join([".."] * depth)
    found = [entry(there, "folder"), entry("link0", "symlink", to=there)]
    found += [entry(f"link{n}", "symlink", to=f"link{n - 1}/{back}/{there}") for n in range(1, links)]
    return found, f"link{links - 1}"


@ON_DISK
def test_entries_behind_links_take_linear_work(entry: Entry, layer: Callable[..., bytes], tmp_path: Path) -> None:
    """Where a chain of links leads is looked up once, also for more folders behind it than are kept open."""
    entries, link = chain(entry)
    entries += [entry(f"{link}/{n % 400}/{n}") for n in range(2000)]
    packed = layer(*entries)
    assert calls(lambda: apply(tmp_path / "target", packed), "target") <= CALLS * names(entries)


@ON_DISK
def test_links_that_multiply_the_work_are_refused(
    entry: Entry, layer: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that have a chain of links looked up again and again exceed a limit."""
    monkeypatch.setattr("distsdk.layers.target.Lookups", partial(Lookups, 50_000))
    entries, link = chain(entry)
    for n in range(500):
        entries += [entry("other", "symlink", to="x"), entry(f"{link}/{n}")]
    with pytest.raises(LimitExceeded, match="symbolic links") as caught:
        apply(tmp_path / "target", layer(*entries))
    assert 50_000 == caught.value.limit
