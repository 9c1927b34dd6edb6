"""Pictures of values, drawn by matplotlib, which is an extra."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from distsdk._text import human_size, shortened
from distsdk.analysis.usage import usage
from distsdk.errors import MissingExtra
from distsdk.layers.member import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from distsdk.images.image import Image

#: Bars for folders.
ROWS = 14

#: Share of all bytes that a folder has which is divided.
WORTH = 0.04

#: Layers that a legend explains; their colours go from dark to light in any case.
LEGEND = 12

#: Characters of a folder's name that are shown.
_SHOWN = 40

_ELSE = "all else"
_HIDDEN = "hidden by later layers"


def plot(image: Image, ax: Axes | None = None) -> Axes:
    """Draw where the bytes of an image are: `Image.plot`.

    Raises:
        MissingExtra: matplotlib is not there.
        DistError: As `Image.ls`.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise MissingExtra("plot", "Image.plot") from error
    bars = rows(image)
    if ax is None:
        _, ax = pyplot.subplots(figsize=(8, 1.2 + 0.3 * len(bars)), layout="constrained")
    places = range(len(bars))
    lefts = [0] * len(bars)
    colours = pyplot.get_cmap("viridis", max(2, len(image.layers)))
    for layer in image.layers:
        widths = [sizes.get(layer.number, 0) for _, sizes in bars]
        if any(widths):
            ax.barh(places, widths, left=lefts, color=colours(layer.number), label=f"layer {layer.number}")
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    # Names are no formulas, whatever is in them.
    ax.set_yticks(places, [shortened(name, _SHOWN) for name, _ in bars], parse_math=False)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: human_size(round(size))))
    ax.set_xlabel("bytes of files")
    ax.set_title(shortened(f"{image.reference} {image.platform}"), parse_math=False)
    ax.spines[["top", "right"]].set_visible(False)
    if 0 < len(ax.containers) <= LEGEND:
        ax.legend(frameon=False, fontsize="small")
    return ax


def rows(image: Image) -> list[tuple[str, Mapping[int, int]]]:
    """Return bars: a folder, and its bytes by the number of the layer they came with. They have nothing in common.

    The largest folder is divided into those below it as long as there are few, and it is worth it; ``/usr/*`` is what
    lies in ``/usr`` itself. What is hidden by later layers comes last, where there is any.

    Raises:
        DistError: As `Image.ls`.
    """
    used = usage(image)
    below, own, folders = _sizes(image)
    whole: dict[str, Mapping[int, int]] = {"/": below["/"]}
    parts: dict[str, Mapping[int, int]] = {}
    enough = WORTH * sum(below["/"].values())
    while whole and len(whole) + len(parts) < ROWS:
        largest = max(whole, key=lambda name: sum(whole[name].values()))
        inner = {name: below[name] for name in folders[largest] if name in below}
        if sum(whole[largest].values()) < enough:
            break
        sizes = whole.pop(largest)
        if not inner:
            parts[largest] = sizes
            continue
        whole |= inner
        if largest in own:
            parts[f"{largest.rstrip('/')}/*"] = own[largest]
    bars = sorted((whole | parts).items(), key=lambda bar: -sum(bar[1].values()))
    rest: defaultdict[int, int] = defaultdict(int)
    for _, by_layer in bars[ROWS:]:
        for number, size in by_layer.items():
            rest[number] += size
    bars = bars[:ROWS]
    if rest:
        bars.append((_ELSE, rest))
    if used.wasted:
        bars.append((_HIDDEN, {layer.layer.number: layer.wasted for layer in used.layers if layer.wasted}))
    return bars


_ByLayer: TypeAlias = "defaultdict[str, defaultdict[int, int]]"


def _sizes(image: Image) -> tuple[_ByLayer, _ByLayer, Mapping[str, list[str]]]:
    """Return bytes by folder and layer: of all below it, and of the files in it itself; and the folders in it."""
    below: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    own: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    folders: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[int] = set()
    for entry in image.walk():
        parent = entry.path.rpartition("/")[0] or "/"
        if entry.member.kind is Kind.FOLDER:
            folders[parent].append(entry.path)
        if entry.member.kind is not Kind.FILE or id(entry.member) in seen:
            continue
        seen.add(id(entry.member))
        own[parent][entry.layer] += entry.member.size
        folder = parent
        while True:
            below[folder][entry.layer] += entry.member.size
            if folder == "/":
                break
            folder = folder.rpartition("/")[0] or "/"
    return below, own, folders
