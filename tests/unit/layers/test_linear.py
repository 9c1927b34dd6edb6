"""The work that layers take is linear in their entries and names, however these are chosen: held by counting calls."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from distsdk.errors import LimitExceeded
from distsdk.layers.compression import LayerLimits
from distsdk.layers.lookups import Lookups
from distsdk.layers.merged import _View
from distsdk.layers.tar import index_tar
from distsdk.layers.unpack import apply, unpack

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

    from distsdk.layers.merged import Overlay

    Info = tuple[tarfile.TarInfo, bytes]
    Entry = Callable[..., Info]

ON_DISK = pytest.mark.skipif(sys.platform == "win32", reason="nothing is unpacked on Windows")

#: Lines that an entry, and each name in its path, may take in the merged tree.
LINES = 20
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
    assert calls(lambda: apply(tmp_path / "target", packed), "rootfs") <= CALLS * names(entries)


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
    # A directory of a lower layer goes with what was in it, although that went before.
    unpack([lower, layer(entry("a/.wh..wh..opq"), entry(".wh.a"))], tmp_path / "empty")
    assert [] == list((tmp_path / "empty").iterdir())
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
    assert calls(lambda: apply(tmp_path / "target", packed), "rootfs") <= CALLS * names(entries)


@ON_DISK
def test_links_that_multiply_the_work_are_refused(
    entry: Entry, layer: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that have a chain of links looked up again and again exceed a limit."""
    monkeypatch.setattr("distsdk.layers.rootfs.Lookups", partial(Lookups, 50_000))
    entries, link = chain(entry)
    for n in range(500):
        entries += [entry("other", "symlink", to="x"), entry(f"{link}/{n}")]
    with pytest.raises(LimitExceeded, match="symbolic links") as caught:
        apply(tmp_path / "target", layer(*entries))
    assert 50_000 == caught.value.limit


# The merged tree


def lines(work: Callable[[], object]) -> int:
    """Return how many lines are run of the module that merges layers: its loops call little."""
    file = import_module("distsdk.layers.merged").__file__
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:  # noqa: ANN401 - a frame, and this function
        nonlocal count
        if frame.f_code.co_filename != file:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("make", WHITEOUTS)
def test_whiteouts_are_merged_in_linear_work(
    make: Callable[[Entry], list[Info]], entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay]
) -> None:
    """Whiteouts find each folder of the merged tree empty of lower files after the first one."""
    entries = make(entry)
    tree = merged(layer(*entries))
    assert lines(tree.ls) <= LINES * names(entries)


def test_entries_behind_links_are_merged_in_linear_work(
    entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay]
) -> None:
    """Where a chain of links leads is found out once in the merged tree."""
    entries, link = chain(entry)
    entries += [entry(f"{link}/{n}/{n}") for n in range(2000)]
    tree = merged(layer(*entries))
    assert lines(tree.ls) <= LINES * names(entries)


def test_links_that_multiply_the_work_of_merging_are_refused(
    entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that have a chain of links looked up again and again exceed a limit in the merged tree, too."""
    monkeypatch.setattr("distsdk.layers.merged.Lookups", partial(Lookups, 50_000))
    entries, link = chain(entry)
    for n in range(500):
        entries += [entry("other", "symlink", to="x"), entry(f"{link}/{n}")]
    with pytest.raises(LimitExceeded, match="symbolic links") as caught:
        merged(layer(*entries)).ls()
    assert 50_000 == caught.value.limit


def test_a_layer_is_looked_at_in_linear_work(entry: Entry, layer: Callable[..., bytes]) -> None:
    """The folders that an entry implies are looked at once, and not for each entry below them."""
    path = "/".join("d" * 500)
    entries = [entry("link", "symlink", to="x"), *(entry(f"{path}/{n}/x") for n in range(500))]
    members = index_tar([layer(*entries, entry("other/.wh.x"))])[0]
    # Each name in a path is no work by itself: all of the paths' folders but the last one are known.
    assert lines(lambda: _View(members)) <= 100 * (len(entries) + 500)


def test_a_path_through_long_links_takes_linear_work(
    entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay]
) -> None:
    """A path through links with many names takes no more than these names, whether layers are merged or not."""
    entries, link = chain(entry, links=30, depth=300)
    entries += [entry(f"{'/'.join('d' * 300)}/file")]
    tree = merged(layer(*entries))
    bound = LINES * (names(entries) + 30 * 900)
    assert lines(lambda: tree.stat(f"/{link}/file")) <= bound + LINES * 4096
    tree.ls()
    assert lines(lambda: tree.stat(f"/{link}/file")) <= bound


# Entries of all layers together


@ON_DISK
@pytest.mark.parametrize("dry_run", [False, True])
def test_entries_of_an_image_have_a_limit(
    dry_run: bool, entry: Entry, layer: Callable[..., bytes], tmp_path: Path
) -> None:
    """A layer named often enough has more entries than all layers may have together, whiteouts included."""
    packed = layer(*(entry(f"a/{n}") for n in range(10)), entry("b/.wh.c"))
    limits = LayerLimits(members=11, image_members=33)
    assert 30 == unpack([packed] * 3, tmp_path / "three", dry_run=dry_run, limits=limits).entries
    with pytest.raises(LimitExceeded, match=r"more than [\d,]+ entries together") as caught:
        unpack([packed] * 4, tmp_path / "four", dry_run=dry_run, limits=limits)
    assert 33 == caught.value.limit


def test_entries_of_the_merged_tree_have_a_limit(
    entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay]
) -> None:
    """The limit of all layers together holds for listings, and for a path as far as it takes several layers."""
    packed = layer(*(entry(f"a/{n}") for n in range(10)))
    limits = LayerLimits(members=10, image_members=30)
    assert 10 == len(merged(packed, packed, packed, limits=limits).ls("/a"))
    assert 0 == merged(*[packed] * 9, limits=limits).stat("/a/1").layer - 8  # one layer decides
    for look in ("ls", "stat"):
        with pytest.raises(LimitExceeded, match=r"more than [\d,]+ entries together") as caught:
            getattr(merged(*[packed] * 4, limits=limits), look)("/a/b" if look == "stat" else "/a")
        assert 30 == caught.value.limit


def test_implied_directories_have_a_limit(
    entry: Entry, layer: Callable[..., bytes], merged: Callable[..., Overlay]
) -> None:
    """An entry with a long name does not make more directories in memory than there may be entries."""
    packed = layer(entry("/".join("d" * 200)))
    merged(packed, limits=LayerLimits(image_members=199)).ls()
    with pytest.raises(LimitExceeded, match="the directories that they imply"):
        merged(packed, limits=LayerLimits(image_members=198)).ls()
