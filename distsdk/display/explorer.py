"""What the explorers of a notebook know: where one is, what is seen of it, and what it costs. No widgets.

Each is told what its person does, a call for each thing, and has what is to be shown as attributes. Text from elsewhere
is kept as it is, but in rows and lines: whoever shows it escapes it.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from attrs import frozen

from distsdk._text import human_size, printable
from distsdk.errors import LimitExceeded, NotFound
from distsdk.layers.member import Kind, Member, Role, inside, place
from distsdk.layers.merged import Entry
from distsdk.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from distsdk.analysis.diff import Diff
    from distsdk.analysis.usage import Usage
    from distsdk.images.image import Image, Layer
    from distsdk.layers.layer import MemberFile
    from distsdk.remotes.remote import Remote
    from distsdk.spec.digest import Digest
    from distsdk.spec.platform import Platform

T = TypeVar("T")

#: Rows of a list that are seen at once.
PAGE = 100

#: Bytes that are fetched without asking to learn what is in an image.
UNASKED = 1_000_000

#: Bytes of a file that are shown as text, and otherwise.
TEXT_LIMIT = 32 * 1024
HEX_LIMIT = 2 * 1024

#: Bytes of a file that is shown as a picture, and its pixels: a small file may unpack to a very large picture.
PICTURE_LIMIT = 1024 * 1024
PIXEL_LIMIT = 16_000_000

#: TagsView that are listed; some repositories have more than anybody reads.
TAG_LIMIT = 10_000

#: Layers that are asked at once what they cost.
_AT_ONCE = 4

_IMPLIED = Member(path=b"", kind=Kind.FOLDER, mode=0o755)

_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.HARD_LINK: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class FilteredList(Generic[T]):
    """A list that is filtered, sorted, and seen page by page.

    Attributes:
        orders: By the name of an order, what it sorts by.
        items: All there is.
        page: Which page is seen, from 0.
    """

    def __init__(self, orders: Mapping[str, Callable[[T], Any] | None], text: Callable[[T], str]) -> None:
        """Begin with nothing in it.

        Args:
            orders: By name; None leaves the order as it is. The first one holds at first.
            text: Of an item, where the filter looks.
        """
        self.orders = dict(orders)
        self.items: Sequence[T] = ()
        self.page = 0
        self._text = text
        self._order = next(iter(self.orders))
        self._filter = ""
        self._found: Sequence[T] | None = None

    def put(self, items: Sequence[T]) -> None:
        """List other items; filter and order stay."""
        self.items = items
        self._changed()

    @property
    def order(self) -> str:
        """The name of the order."""
        return self._order

    @order.setter
    def order(self, name: str) -> None:
        self.orders[name]  # or it is a KeyError
        self._order = name
        self._changed()

    @property
    def filter(self) -> str:
        """What the text of an item has to have in it, small letters or capitals."""
        return self._filter

    @filter.setter
    def filter(self, text: str) -> None:
        self._filter = text
        self._changed()

    @property
    def found(self) -> Sequence[T]:
        """What the filter lets through, in order."""
        if self._found is None:
            wanted, key = self._filter.casefold(), self.orders[self._order]
            items = self.items
            if wanted:
                items = [item for item in items if wanted in self._text(item).casefold()]
            self._found = items if key is None else sorted(items, key=key)
        return self._found

    @property
    def pages(self) -> int:
        """How many pages there are, at least one."""
        return max(1, -(-len(self.found) // PAGE))

    @property
    def rows(self) -> Sequence[T]:
        """What is on the page."""
        return self.found[self.page * PAGE : (self.page + 1) * PAGE]

    def turn(self, page: int) -> None:
        """Turn to a page, from 0; to the last one where there are fewer."""
        self.page = min(max(0, page), self.pages - 1)

    def turn_to(self, item: T) -> None:
        """Turn to the page that an item is on."""
        self.page = self.found.index(item) // PAGE

    def row(self, item: T | None) -> int:
        """Return which row of all pages an item is, from 1; 0 where it is not among them."""
        return next((number for number, found in enumerate(self.found, 1) if found is item), 0)

    def sort_again(self) -> None:
        """Sort by what has changed in the items."""
        self._found = None

    @property
    def summary(self) -> str:
        """How much there is, in words."""
        total = f"{len(self.items):,}"
        return total if len(self.found) == len(self.items) else f"{len(self.found):,} of {total}"

    def _changed(self) -> None:
        self._found = None
        self.page = 0


@frozen
class Preview:
    """What a file holds, as far as it is shown.

    Attributes:
        kind: As what it is shown.
        data: Its first bytes; all of them of a picture.
        size: Bytes there are.
        trust: Who vouches for them.
        media_type: Of a picture.
    """

    kind: Literal["text", "bytes", "picture"]
    data: bytes
    size: int
    trust: str
    media_type: str = ""

    @property
    def text(self) -> str:
        """The data as text, without a character at its end that is cut."""
        return self.data.decode("utf-8", "ignore")

    @property
    def cut(self) -> bool:
        """Whether there is more."""
        return len(self.data) < self.size


class FilesView:
    """An image that is looked into: for one of its platforms, all its layers merged, or one layer by itself.

    Attributes:
        image: Which.
        platforms: That there are of it; empty where it is not known.
        layer: The number of the layer that is looked at; None for the merged tree.
        path: The folder that is looked at.
        listing: What is in it.
        selected: An entry of it.
        content: What was read of the selected one.
        usage: Where the bytes of the image are, once that was asked for.
    """

    def __init__(self, image: Image) -> None:
        """Name an image. Nothing is read."""
        self.image = image
        self.platforms: tuple[Platform, ...] = ()
        self.layer: int | None = None
        self.path = "/"
        self.selected: Entry | None = None
        self.content: Preview | None = None
        self.usage: Usage | None = None
        orders: dict[str, Callable[[Entry], Any] | None] = {
            "name": None,
            "largest first": lambda entry: -self.size(entry),
            "newest first": lambda entry: -entry.member.mtime,
            "kind": lambda entry: entry.member.kind.value,
            "topmost layer first": lambda entry: -entry.layer,
        }
        self.listing: FilteredList[Entry] = FilteredList(orders, lambda entry: entry.name)
        self._alone: dict[int, _LayerTree] = {}
        self._costs: dict[Digest, int] = {}

    def begin(self) -> None:
        """Learn which platforms there are, and what is in the image if that costs little: a few small requests.

        Raises:
            DistError: As `Image.ls`.
        """
        self._ask_costs()
        if self.cost <= UNASKED:
            self.read()
        self.platforms = self.image.platforms()

    def _ask_costs(self) -> None:
        self._costs = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            costs = pool.map(lambda layer: layer.files.cost, self.image.layers)
            self._costs = {layer.descriptor.digest: cost for layer, cost in zip(self.image.layers, costs, strict=True)}

    def _cost(self, layer: Layer) -> int:
        """Return what a layer costs, as it was told; all of it where that was not to be had."""
        return self._costs.get(layer.descriptor.digest, layer.size)

    # Where one is

    @property
    def unread(self) -> tuple[Layer, ...]:
        """The layers that have to be read before it can be listed; one that is there twice, once."""
        layers = self.image.layers if self.layer is None else (self.image.layers[self.layer],)
        return tuple({layer.descriptor.digest: layer for layer in layers if self._cost(layer)}.values())

    @property
    def cost(self) -> int:
        """Bytes that takes."""
        return sum(map(self._cost, self.unread))

    def read(self, on_progress: Callable[[int], object] = lambda _: None) -> None:
        """Read those layers, and list what is here.

        Args:
            on_progress: Called, in this thread, with how many bytes were read so far.

        Raises:
            DistError: As `Image.ls`.
        """
        done = 0
        for layer in self.unread:
            cost, before = self._cost(layer), done
            layer.files.prepare(on_progress=lambda count, before=before: on_progress(before + count))  # type: ignore[misc] # bound at once
            self._costs[layer.descriptor.digest] = 0
            done += cost
            on_progress(done)
        self.go(self.path)

    def choose_platform(self, platform: Platform) -> None:
        """Look at the image for another platform, from its root."""
        other = self.image.for_platform(platform)
        self.image, self.layer, self.path, self.usage = other, None, "/", None
        self._alone = {}
        self._leave()
        self.listing.put(())
        self._ask_costs()
        if self.cost <= UNASKED:
            self.read()

    def choose_layer(self, number: int | None) -> None:
        """Look at one layer by itself, or at all of them; in the same folder, where there is one."""
        self.layer = number
        self._leave()
        self.listing.put(())
        if self.cost <= UNASKED:
            try:
                self.read()
            except NotFound:
                self.path = "/"
                self.read()

    def go(self, path: str) -> None:
        """Look at a folder, or one that a link leads to; or at the one that anything else is in, and select that.

        Raises:
            NotFound: There is nothing there, or it is not known yet.
        """
        if self.unread:
            raise NotFound(f"what is in the image is not known yet: read {human_size(self.cost)} first")
        entry = self._stat(path, follow=False)
        if entry.member.kind is Kind.SYMLINK:
            with suppress(NotFound, LimitExceeded):  # it leads nowhere: it is there itself
                target = self._stat(path)
                entry = target if target.member.kind is Kind.FOLDER else entry
        is_folder = entry.member.kind is Kind.FOLDER
        folder = entry.path if is_folder else entry.path.rpartition("/")[0] or "/"
        items = self._ls(folder)
        self.path = folder
        self._leave()
        self.listing.filter = ""
        self.listing.put(items)
        if not is_folder:
            found = next(item for item in items if item.path == entry.path)
            self.listing.turn_to(found)
            self.selected = found

    def up(self) -> None:
        """Look at the folder above."""
        left = self.path
        self.go(left.rpartition("/")[0] or "/")
        found = next((item for item in self.listing.items if item.path == left), None)
        if found is not None:
            self.listing.turn_to(found)
            self.selected = found

    def select(self, entry: Entry | None) -> None:
        """Look at an entry. Nothing is read."""
        self.selected, self.content = entry, None

    def open(self) -> None:
        """Open what is selected: go to a folder, or read the beginning of a file.

        Raises:
            NotFound: It can be neither.
            DistError: As `Image.open`.
        """
        entry = self.selected
        if entry is None:
            raise NotFound("select an entry first")
        kind = entry.member.kind
        if self._removes(entry):
            raise NotFound("this entry removes what lower layers have there: there is nothing to open")
        if kind is Kind.SYMLINK:
            entry = self._stat(entry.path)
            kind = entry.member.kind
        if kind is Kind.FOLDER:
            self.go(entry.path)
            return
        with self._open(entry) as file:
            self.content = read_content(file)

    def _leave(self) -> None:
        self.selected = self.content = None

    def learn_usage(self) -> Usage:
        """Return where the bytes of the image are, which takes all its layers; folders have sizes afterwards.

        Raises:
            NotFound: They are not known yet.
            DistError: As `Image.ls`.
        """
        from distsdk.analysis.usage import usage

        if self.usage is None:
            costs = {layer.descriptor.digest: self._cost(layer) for layer in self.image.layers}
            if any(costs.values()):
                raise NotFound(f"choose all layers, and read {human_size(sum(costs.values()))} first")
            self.usage = usage(self.image)
            self.listing.sort_again()
        return self.usage

    # What there is to tell

    def size(self, entry: Entry) -> int:
        """Return the bytes of a file; of a folder those of all files below it, where they are known."""
        if entry.member.kind is Kind.FOLDER and self.usage is not None and self.layer is None:
            return self.usage.folders.get(entry.path, 0)
        return entry.member.size

    def line(self, entry: Entry) -> str:
        """Return an entry as a row of a table with columns of one width."""
        member = entry.member
        removes = self._removes(entry)
        name = printable(entry.name) + ("/" if member.kind is Kind.FOLDER else "")
        has_size = member.kind is Kind.FILE or (member.kind is Kind.FOLDER and self.size(entry))
        size = human_size(self.size(entry)) if has_size and not removes else ""
        mode = "removed   " if removes else mode_of(member)
        link = f" -> {_short(printable(_decoded(member.link)), 60)}" if member.link and not removes else ""
        number = "" if self.layer is not None else f"layer {entry.layer:<2}"
        return f"{_short(name, 40):<40} {size:>11}  {mode}  {number}  {when(member.mtime):<16}{link}"

    def about(self, entry: Entry) -> list[tuple[str, str]]:
        """Return what there is to say about an entry, and where it came from: names and texts."""
        member, layer = entry.member, self.image.layers[entry.layer]
        what = "removes what lower layers have there" if self._removes(entry) else _word(member.kind)
        step = None if layer.history is None else layer.history.created_by or layer.history.comment
        owner = f"{_decoded(member.uname) or member.uid}:{_decoded(member.gname) or member.gid}"
        found = [
            ("path", entry.path),
            ("what it is", f"{what}, another name of a file" if entry.hard_link else what),
            ("link to", _decoded(member.link)),
            ("size", f"{human_size(member.size)}" if member.kind is Kind.FILE else ""),
            ("mode and owner", f"{mode_of(member)} {owner}" if member is not _IMPLIED else ""),
            ("changed", when(member.mtime) if member.mtime else ""),
            ("layer", f"{layer.number}, {human_size(layer.size)}, {layer.descriptor.digest}"),
            ("made by", step or ""),
        ]
        return [(name, text) for name, text in found if text]

    @property
    def code(self) -> str:
        """The Python that would have led here."""
        image = self.image
        lines = [f'image = distsdk.image({str(image.reference)!r}, platform="{image.platform}")']
        entry = self.selected
        if self.layer is None:
            if entry is None:
                lines.append(f"image.ls({self.path!r})")
            elif self.content is None:
                lines.append(f"image.stat({entry.path!r}, follow_symlinks=False)")
                lines.append(f"image.which_layer({entry.path!r}).history")
            elif self.content.kind == "text":
                lines.append(f"image.read_text({entry.path!r})")
            else:
                lines.append(f"image.read_bytes({entry.path!r})")
        else:
            lines.append(f"layer = image.layers[{self.layer}]")
            if entry is None:
                lines.append("layer.members")
            else:
                lines.append(f"member = next(m for m in layer.members if m.path == {entry.member.path!r})")
                lines += ["layer.open(member).read()"] if self.content is not None else []
        return "\n".join(lines)

    def _removes(self, entry: Entry) -> bool:
        return self.layer is not None and place(entry.member.path)[0] is not Role.ENTRY

    # The two trees

    def _tree(self) -> _LayerTree | None:
        if self.layer is None:
            return None
        found = self._alone.get(self.layer)
        if found is None:
            found = self._alone[self.layer] = _LayerTree(self.layer, self.image.layers[self.layer].members)
        return found

    def _stat(self, path: str, *, follow: bool = True) -> Entry:
        tree = self._tree()
        return self.image.stat(path, follow_symlinks=follow) if tree is None else tree.stat(path)

    def _ls(self, path: str) -> Sequence[Entry]:
        tree = self._tree()
        return self.image.ls(path) if tree is None else tree.ls(path)

    def _open(self, entry: Entry) -> MemberFile:
        tree = self._tree()
        if tree is None:
            return self.image.open(entry.path)
        return self.image.layers[entry.layer].open(tree.target(entry), strict=self.image._strict)


class _LayerTree:
    """One layer by itself: its entries, and what it removes, where they stand. Links lead nowhere in it."""

    def __init__(self, number: int, members: Iterable[Member]) -> None:
        """Sort its entries into folders.

        Raises:
            Unsafe: One has a name that leads out of the tree.
        """
        self._folders: dict[bytes, dict[bytes, Entry]] = {b"": {}}
        self._layer = number
        for member in members:
            role, folder, name = place(member.path)
            if role is Role.NOTHING or (role is Role.ENTRY and not name):
                continue
            self._make(folder)
            name = name or b".wh..wh..opq"
            path = folder + b"/" + name if folder else name
            self._folders[folder][name] = Entry(os.fsdecode(b"/" + path), member, number)
            if member.kind is Kind.FOLDER and role is Role.ENTRY:
                self._folders.setdefault(path, {})

    def _make(self, folder: bytes) -> None:
        while folder not in self._folders:
            self._folders[folder] = {}
            above, _, name = folder.rpartition(b"/")
            self._folders.setdefault(above, {}) if not above else self._make(above)
            self._folders[above].setdefault(name, Entry(os.fsdecode(b"/" + folder), _IMPLIED, self._layer))
            folder = above

    def stat(self, path: str) -> Entry:
        raw = inside(os.fsencode(path))
        if not raw:
            return Entry("/", _IMPLIED, self._layer)
        folder, _, name = raw.rpartition(b"/")
        found = self._folders.get(folder, {}).get(name)
        if found is None:
            raise NotFound(f"layer {self._layer} has nothing at {printable(path)}")
        return found

    def ls(self, path: str) -> Sequence[Entry]:
        found = self._folders.get(inside(os.fsencode(path)), {})
        return [found[name] for name in sorted(found)]

    def target(self, entry: Entry) -> Member:
        """Return the member that has the content of an entry."""
        member = entry.member
        if member.kind is Kind.HARD_LINK:
            try:
                member = self.stat(os.fsdecode(member.link)).member
            except NotFound:
                message = (
                    f"it is another name of {printable(_decoded(member.link))} in a layer below: look at all layers"
                )
                raise NotFound(message) from None
        return member


class TagsView:
    """The tags of a repository.

    Attributes:
        remote: Which.
        listing: Its tags.
        more: Whether there are more than are listed.
        selected: One of them.
    """

    def __init__(self, remote: Remote) -> None:
        """Name a repository. Nothing is asked for."""
        self.remote = remote
        self.more = False
        self.selected: str | None = None
        orders: dict[str, Callable[[str], Any] | None] = {
            "as listed": None,
            "name": lambda tag: tag,
            "latest version first": _Version,
        }
        self.listing: FilteredList[str] = FilteredList(orders, lambda tag: tag)

    def begin(self) -> None:
        """Ask for the tags.

        Raises:
            DistError: As `TagList`.
        """
        tags = self.remote.tags()
        found = list(islice(tags, TAG_LIMIT + 1))
        self.more = len(found) > TAG_LIMIT
        self.listing.put(found[:TAG_LIMIT])

    def open(self) -> FilesView:
        """Return the files of the selected image; manifest and config are fetched.

        Raises:
            NotFound: None is selected.
            DistError: As `distsdk.image`.
        """
        from distsdk.images.image import image

        if self.selected is None:
            raise NotFound("select a tag first")
        reference = Reference(self.remote.locator, self.selected)
        return FilesView(image(reference, remote=self.remote))

    @property
    def code(self) -> str:
        """The Python that would have led here."""
        locator = str(self.remote.locator)
        if self.selected is None:
            return f"distsdk.connect({locator!r}).tags()"
        return f"distsdk.image({f'{locator}:{self.selected}'!r})"


class _Version:
    """Sorts tags by the numbers in them, the highest first."""

    def __init__(self, tag: str) -> None:
        parts: list[tuple[int, int, str]] = []
        rest = tag
        while rest:
            head = rest[: len(rest) - len(rest.lstrip("0123456789"))]
            if head and head.isascii():
                # A number that is too long to be one is text.
                parts.append((1, int(head), "") if len(head) < 19 else (1, 0, head))
            else:
                head = rest[: next((i for i, c in enumerate(rest) if c in "0123456789"), len(rest))]
                parts.append((0, 0, head))
            rest = rest[len(head) :]
        self._parts = parts

    def __lt__(self, other: _Version) -> bool:
        return self._parts > other._parts


@frozen
class Change:
    """A difference between two images.

    Attributes:
        part: What differs: ``file``, ``package``, ``setting``, ``step`` or ``layer``.
        what: ``added``, ``removed`` or ``changed``.
        name: Of what.
        before: Some words about it in the one.
        after: The same of the other.
        how: In what a file differs.
        size: Bytes of a file, the larger of both.
    """

    part: str
    what: str
    name: str
    before: str = ""
    after: str = ""
    how: str = ""
    size: int = 0

    @property
    def line(self) -> str:
        """The change as a row of a table with columns of one width."""
        values = " -> ".join(_short(printable(text), 30) for text in (self.before, self.after) if text)
        how = f"  ({self.how})" if self.how else ""
        return f"{_short(printable(self.name), 60):<60} {self.what:<8} {values}{how}"


class ChangesView:
    """What differs between two images.

    Attributes:
        diff: All of it.
        part: Which part is seen.
        what: Which kind of change is seen; empty for all.
        listing: Those.
        selected: One of them.
    """

    PARTS = ("file", "package", "setting", "step", "layer")
    KINDS = ("added", "removed", "changed")

    def __init__(self, diff: Diff) -> None:
        """Take a diff."""
        self.diff = diff
        self.what = ""
        self.selected: Change | None = None
        orders: dict[str, Callable[[Change], Any] | None] = {
            "name": None,
            "largest first": lambda change: -change.size,
            "kind of change": lambda change: change.what,
        }
        self.listing: FilteredList[Change] = FilteredList(orders, lambda change: change.name)
        self._all = {part: tuple(find(diff)) for part, find in _CHANGES.items()}
        self.part = next((part for part in self.PARTS if self._all[part]), "file")
        self._list()

    def count(self, part: str) -> int:
        """Return how many changes a part has."""
        return len(self._all[part])

    def choose(self, part: str, what: str) -> None:
        """See another part, or other kinds of changes."""
        self.part, self.what = part, what
        self._list()

    def _list(self) -> None:
        self.selected = None
        self.listing.put([change for change in self._all[self.part] if self.what in {"", change.what}])

    @property
    def code(self) -> str:
        """The Python that would have led here."""
        before, after = (f"distsdk.image({str(side)!r})" for side in (self.diff.before, self.diff.after))
        ends = {
            "file": "files",
            "package": "packages",
            "setting": "settings",
            "step": "history",
            "layer": "layers",
        }
        return f"{before}.diff({after}).{ends[self.part]}"


def _file_changes(diff: Diff) -> Iterable[Change]:
    for file in diff.files:
        sides = zip((file.before, file.after), file.sizes, strict=True)
        before, after = ("" if entry is None else human_size(size) for entry, size in sides)
        yield Change("file", file.what, file.path, before, after, ", ".join(file.how), max(file.sizes))


def _package_changes(diff: Diff) -> Iterable[Change]:
    for package in diff.packages:
        before, after = ("" if p is None else f"{p.version} {p.architecture}" for p in (package.before, package.after))
        yield Change("package", package.what, package.package.name, before, after)


def _setting_changes(diff: Diff) -> Iterable[Change]:
    import json

    def text(value: object) -> str:
        return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    for setting in diff.settings:
        yield Change("setting", setting.what, setting.name, text(setting.before), text(setting.after))


def _step_changes(diff: Diff) -> Iterable[Change]:
    for what, steps in (("removed", diff.history.before), ("added", diff.history.after)):
        for step in steps:
            yield Change("step", what, step.created_by or step.comment)


def _layer_changes(diff: Diff) -> Iterable[Change]:
    for layer in diff.layers.before:
        yield Change("layer", "removed", str(layer.digest), human_size(layer.size), size=layer.size)
    for layer in diff.layers.after:
        yield Change("layer", "added", str(layer.digest), "", human_size(layer.size), size=layer.size)


_CHANGES: dict[str, Callable[[Diff], Iterable[Change]]] = {
    "file": _file_changes,
    "package": _package_changes,
    "setting": _setting_changes,
    "step": _step_changes,
    "layer": _layer_changes,
}


def read_content(file: MemberFile) -> Preview:
    """Return what is to be shown of a file; no more of it is read.

    Raises:
        DistError: As `MemberFile.read`.
    """
    size = file.member.size
    data = file.read(TEXT_LIMIT)
    media_type = picture_type(data)
    if media_type is not None and size <= PICTURE_LIMIT and 0 < pixels(data, media_type) <= PIXEL_LIMIT:
        return Preview("picture", data + file.read(), size, file.trust, media_type)
    if b"\0" not in data:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            is_text = len(data) < size and error.start > len(data) - 4 and error.reason == "unexpected end of data"
        else:
            is_text = True
        if is_text:
            return Preview("text", data, size, file.trust)
    return Preview("bytes", data[:HEX_LIMIT], size, file.trust)


def picture_type(data: bytes) -> str | None:
    """Return the media type of a picture, by its first bytes: PNG, JPEG, GIF or WebP, which every browser shows."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def pixels(data: bytes, media_type: str) -> int:
    """Return how many pixels a picture has as its head tells; 0 where that is not to be found."""

    def number(start: int, size: int, order: Literal["big", "little"] = "big") -> int:
        return int.from_bytes(data[start : start + size], order)

    match media_type, data[12:16]:
        case "image/png", b"IHDR":
            return number(16, 4) * number(20, 4)
        case "image/gif", _:
            return number(6, 2, "little") * number(8, 2, "little")
        case "image/webp", b"VP8X":
            return (number(24, 3, "little") + 1) * (number(27, 3, "little") + 1)
        case "image/webp", b"VP8L":
            bits = number(21, 4, "little")
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        case "image/webp", b"VP8 ":
            return (number(26, 2, "little") & 0x3FFF) * (number(28, 2, "little") & 0x3FFF)
        case "image/jpeg", _:
            at = 2
            while data[at : at + 1] == b"\xff":
                marker = number(at + 1, 1)
                # Start of frame, but for the three codes among them that are something else.
                if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
                    return number(at + 5, 2) * number(at + 7, 2)
                at += 2 + max(2, number(at + 2, 2))
    return 0


def mode_of(member: Member) -> str:
    """Return type and permissions as ``ls -l`` shows them."""
    return stat.filemode(_TYPES[member.kind] | member.mode)


def when(nanoseconds: int) -> str:
    """Return a time in UTC to the minute; nothing for one that no calendar has."""
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return ""


def _word(kind: Kind) -> str:
    return kind.name.lower().replace("_", " ")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
