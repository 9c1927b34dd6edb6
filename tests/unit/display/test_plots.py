"""`Image.plot`: bars of where the bytes are, from names that may be anything."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import tarfile
import warnings
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes

import distsdk
from distsdk.analysis.usage import usage
from distsdk.display.plots import ROWS, rows
from distsdk.errors import MissingExtra
from distsdk.testing import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk import Image


def layer(files: dict[str, int], hard: dict[str, str] | None = None) -> bytes:
    """Return a layer of files of these sizes, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in files.items():
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
        for name, target in (hard or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Image]]:
    """Return an image of these layers. Nothing is drawn on a screen, and the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry, mpl.rc_context({"backend": "agg"}):

        def image(*layers: bytes) -> Image:
            registry.add_image("x", "1", layers=list(layers))
            return distsdk.image(f"{registry.locator('x')}:1", platform="linux/amd64")

        yield image
        pyplot.close("all")


def test_bars_add_up(look: Callable[..., Image]) -> None:
    """Each byte that is seen is in one bar, under the layer it came with; a file with two names counts once."""
    files = {f"usr/share/d{number:02}/f": 1000 + number for number in range(30)} | {
        "usr/x": 5000,
        "etc/a": 7000,
        "b": 3000,
    }
    image = look(layer(files, {"etc/again": "etc/a"}), layer({"usr/share/d29/f": 2000, "opt/y": 1100}))
    bars = rows(image)
    used = usage(image)
    *seen, (last, hidden) = bars
    assert "hidden by later layers" == last
    assert {0: 1029} == hidden
    assert used.wasted == 1029
    assert used.content == sum(sum(sizes.values()) for _, sizes in seen)
    assert 3100 == sum(sizes.get(1, 0) for _, sizes in seen)
    assert len(seen) <= ROWS + 1
    named = dict(seen)
    assert {0: 7000} == named["/etc"]
    assert {0: 5000} == named["/usr/*"]
    assert {0: 3000} == named["/*"]
    assert {1: 2000} == named["/usr/share/d29"]
    assert 0 < sum(named["all else"].values())


def test_an_image_of_few_folders_is_shown_whole(look: Callable[..., Image]) -> None:
    """Nothing is left over, nothing is hidden."""
    assert [("/a", {0: 10}), ("/b/c", {0: 7}), ("/b/*", {0: 2})] == rows(look(layer({"a/x": 10, "b/c/y": 7, "b/z": 2})))
    assert [] == [bar for bar in rows(look(layer({}))) if bar[1]]


def test_what_is_drawn_is_what_there_is(look: Callable[..., Image]) -> None:
    """A bar for each folder, a colour for each layer; axes that are given are drawn into."""
    image = look(layer({"a/x": 10_000, "b/y": 7}), layer({"c/z": 20_000, "a/x": 1}))
    ax = image.plot()
    assert isinstance(ax, Axes)
    assert ["/c", "/b", "/a", "hidden by later layers"] == [label.get_text() for label in ax.get_yticklabels()]
    drawn: dict[str, list[float]] = {}
    for container in ax.containers:
        drawn[str(container.get_label())] = [patch.get_width() for patch in container.patches]  # type: ignore[attr-defined] # bars are
    assert {"layer 0": [0, 7, 0, 10_000], "layer 1": [20_000, 0, 1, 0]} == drawn
    other = pyplot.figure().subplots()
    assert other is image.plot(ax=other)
    assert other.containers


@pytest.mark.parametrize("name", ["$\\frac{", "$$", "\x1b[31m", "a\nb", "\u202eabc", "_" + "x" * 200, "50% $x^2$"])
def test_names_are_no_formulas(look: Callable[..., Image], name: str) -> None:
    """Matplotlib would take what is between dollar signs for one, and fail where it is none."""
    ax = look(layer({f"{name}/x": 10, f"{name}/y/z": 10})).plot()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert all(label.isprintable() and len(label) < 200 for label in labels)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a font that lacks a character
        pyplot.savefig(io.BytesIO())


def test_without_matplotlib_it_says_what_to_install(
    look: Callable[..., Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read before."""
    real = builtins.__import__

    def refuse(name: str, *more: Any) -> Any:  # noqa: ANN401 - as `__import__`
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more)

    image = look(layer({"a": 1}))
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"Image\.plot .*distsdk\[plot\]"):
        image.plot()
    assert 0 == image.fetched
