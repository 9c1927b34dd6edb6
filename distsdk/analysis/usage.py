"""Where the bytes of an image are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._repr import Displayed
from distsdk._text import counted, human_size
from distsdk.layers.member import Kind, Role, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distsdk.images.image import Image, Layer


@frozen
class LayerUsage(Displayed):
    """The bytes of one layer.

    Attributes:
        layer: Which.
        packed: As they come over the wire.
        content: Of its files.
        files: How many files it has, without whiteouts.
        wasted: Of its files that are hidden, as later layers replace or remove them: they are in the image, and nobody
            sees them.
    """

    layer: Layer
    packed: int
    content: int
    files: int
    wasted: int


@frozen(repr=False)
class Usage(Displayed):
    """Where the bytes of an image are.

    Attributes:
        layers: The lowest first.
        folders: Bytes of the files below each folder of the merged tree, by its path; a file with several names counts
            once, under the first of them.
    """

    layers: tuple[LayerUsage, ...]
    folders: Mapping[str, int]

    @property
    def content(self) -> int:
        """Bytes of the files that are seen."""
        return self.folders["/"]

    @property
    def wasted(self) -> int:
        """Bytes of files that nobody sees."""
        return sum(layer.wasted for layer in self.layers)

    def __repr__(self) -> str:
        layers = counted(len(self.layers), "layer")
        return f"<Usage {layers}, {human_size(self.content)} in files, {human_size(self.wasted)} hidden>"


def usage(image: Image) -> Usage:
    """Return where the bytes of an image are. This takes all its members: `Image.cost` tells beforehand.

    Raises:
        DistError: As `Image.ls`.
    """
    folders = {"/": 0}
    seen: set[int] = set()
    for entry in image.walk():
        if entry.member.kind is Kind.FOLDER:
            folders.setdefault(entry.path, 0)
        # The tree has the layers' own members: by identity, as a layer may hold two that are equal.
        if entry.member.kind is not Kind.FILE or id(entry.member) in seen:
            continue
        seen.add(id(entry.member))
        for folder in _above(entry.path):
            folders[folder] += entry.member.size
    layers = []
    for layer in image.layers:
        files = [m for m in layer.members if m.kind is Kind.FILE and place(m.path)[0] is Role.ENTRY]
        content = sum(member.size for member in files)
        wasted = sum(member.size for member in files if id(member) not in seen)
        layers.append(LayerUsage(layer, layer.size, content, len(files), wasted))
    return Usage(tuple(layers), folders)


def _above(path: str) -> Iterator[str]:
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path
