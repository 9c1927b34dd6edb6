"""Layers as one tree: what a container would see.

A path is looked for in the top layer first, and in lower ones only as long as it is not decided. That is right where
names lead to where they seem to lead. Where a layer's entries may have gone elsewhere, through symbolic links of lower
layers, and for listings, all layers are put on each other in order, in memory, as unpacking does on disk.

https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#applying-changesets
"""

from __future__ import annotations

import fnmatch
import os
import queue
import re
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from attrs import define, frozen

from distsdk._locks import ForkSafeLock
from distsdk._repr import Displayed
from distsdk._text import human_size, quoted
from distsdk.errors import LimitExceeded, MalformedDocument, NotFound, Unsafe
from distsdk.layers.compression import DEFAULT_LIMITS, too_many_entries
from distsdk.layers.lookups import Lookups
from distsdk.layers.member import Kind, Member, Role, inside, linked_directory, linked_nothing, place, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distsdk.layers.compression import LayerLimits
    from distsdk.layers.layer import MemberFile

#: Symbolic links that are followed on the way to one name, as by Linux.
MAX_LINKS = 40

#: Layers whose members are got at once.
_AT_ONCE = 4

#: Names that may be looked up in the layers by themselves, on the way to one path; more are in the merged tree.
_NAMES_FROM_THE_TOP = 4096

#: Bytes of the paths of the folders that one layer implies, for looking into it by itself.
_MAX_PATHS = 16 * 1024 * 1024

#: What a folder is that no layer has an entry for.
_IMPLIED = Member(path=b"", kind=Kind.FOLDER, mode=0o755)

_WILD = re.compile(rb"[*?\[]")


class LayerEntries(Protocol):
    """What an overlay needs of a layer; `LayerFiles` is one."""

    @property
    def members(self) -> Sequence[Member]:
        """Its entries, in order. They may cost much: they are asked for when they are needed."""
        ...

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open one of its files."""
        ...


@frozen(repr=False)
class Entry(Displayed):
    """A name in the merged tree.

    Attributes:
        path: From the root, with a slash in front. Bytes that are no UTF-8 are escaped as `os.fsdecode` does.
        member: What it is. Of a hard link, what it is another name of: its `Member.path` is that one's.
        layer: Which layer put it there, 0 for the lowest. Of a folder that no layer has an entry for, which implied it.
        hard_link: Whether it was made as another name of a file.
    """

    path: str
    member: Member
    layer: int
    hard_link: bool = False

    @property
    def name(self) -> str:
        """The last part of the path; empty for the root."""
        return self.path.rpartition("/")[2]

    def __repr__(self) -> str:
        kind = self.member.kind.name.lower().replace("_", " ")
        size = f" {human_size(self.member.size)}" if self.member.kind is Kind.FILE else ""
        return f"<Entry {quoted(self.path)} {kind}{size}, layer {self.layer}>"


@define(eq=False)
class _Node:
    """A name in the tree that layers are put on.

    Attributes:
        member: What it is.
        layer: Which layer put it there.
        entry: Whether that layer has an entry for it: then it survives what that layer removes.
        origin: The layer that has its content.
        children: Of a folder; None of others.
        hard_link: Whether it was made as another name of a file.
        cleared: Of a folder, the last layer whose whiteouts have removed what lower ones had in it.
    """

    member: Member
    layer: int
    entry: bool
    origin: int
    children: dict[bytes, _Node] | None = None
    hard_link: bool = False
    cleared: int = -1


#: A folder, and the place that it is in; None above the root. Such places share what is above them.
_Place: TypeAlias = "tuple[_Node, _Place | None]"


class _Followed(NamedTuple):
    """Among names to be looked up: the place where the target of a symbolic link ends.

    Attributes:
        link: The link.
        before: Links that were followed before it.
    """

    link: _Node
    before: int


class Overlay:
    """The merged tree of some layers.

    Paths are text and start from the root, with or without a slash in front; ``.`` and ``..`` in them, and symbolic
    links, are followed inside the root. Threads may share it.
    """

    def __init__(self, layers: Sequence[LayerEntries], limits: LayerLimits = DEFAULT_LIMITS) -> None:
        """Name the layers. Nothing is read.

        Args:
            layers: The lowest first, as manifests list them.
            limits: That of the entries of all layers together holds here.
        """
        self._layers = tuple(layers)
        self._limits = limits
        self._views: dict[int, _View] = {}
        self._tree: _Node | None = None
        self._lock = ForkSafeLock()

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Entry:
        """Return what is at a path. Layers below the one that decides are left alone.

        Args:
            path: Where.
            follow_symlinks: Whether a symbolic link at the end is followed too.

        Raises:
            NotFound: There is nothing, or something on the way is no folder.
            LimitExceeded: There are more than `MAX_LINKS` symbolic links on the way, or the layers have more entries
                than a limit allows.
            Unsafe: A layer has a name that leads out of the tree.
            MalformedDocument: A layer has an entry that cannot be.
            DistError: What the layers raise.
        """
        names, node = self._find(_parts(path), follow=follow_symlinks, asked=path)
        return _entry(names, node)

    def which_layer(self, path: str) -> int:
        """Return the number of the layer, from 0, that put what is at a path; of a symbolic link that of the link.

        Raises:
            DistError: As `stat`.
        """
        return self.stat(path, follow_symlinks=False).layer

    def resolve(self, path: str) -> str:
        """Return the path without symbolic links, ``.`` and ``..``.

        Raises:
            DistError: As `stat`.
        """
        names, _ = self._find(_parts(path), follow=True, asked=path, real=True)
        return _text(names)

    def open(self, path: str, *, strict: bool = False) -> MemberFile:
        """Open a file. Nothing of its content is asked for until it is read.

        Args:
            path: Where; symbolic links are followed.
            strict: Refuse bytes that nothing vouches for.

        Raises:
            NotFound: There is no file.
            Unsafe: It is strict, and the bytes would be unverified.
            DistError: As `stat`.
        """
        _, node = self._find(_parts(path), follow=True, asked=path)
        if node.member.kind is not Kind.FILE:
            kind = node.member.kind.name.lower().replace("_", " ")
            raise NotFound(f"{_shown(path)} is a {kind}, no file that could be opened")
        return self._layers[node.origin].open(node.member, strict=strict)

    def ls(self, path: str = "/") -> list[Entry]:
        """Return what is in a folder, sorted by name; of a file, itself.

        Args:
            path: Where; symbolic links are followed.

        Raises:
            DistError: As `stat`.
        """
        names, node = self._merged_at(path)
        if node.children is None:
            return [_entry(names, node)]
        return [_entry((*names, name), child) for name, child in sorted(node.children.items())]

    def walk(self, path: str = "/") -> Iterator[Entry]:
        """Yield all that is below a folder: each folder before what is in it, names sorted.

        Args:
            path: Where; symbolic links on the way there are followed, those below are not.

        Raises:
            DistError: As `stat`, at once.
        """
        names, node = self._merged_at(path)
        return _below(_text(names), node)

    def glob(self, pattern: str) -> Iterator[Entry]:
        """Yield what a pattern matches, sorted, each once.

        Args:
            pattern: From the root, as for `pathlib.PurePath.full_match`: ``*``, ``?`` and ``[…]`` match within a name,
                a leading dot too, and ``**`` any number of folders; symbolic links are not followed there, elsewhere
                they are.

        Raises:
            DistError: As `stat`, at once.
        """
        parts = [part for part in _parts(pattern) if part != b"."]
        root = self._merged()
        found = dict(self._matches(root, parts))
        return (_entry(names, found[names]) for names in sorted(found))

    def __reduce__(self) -> tuple[object, ...]:
        return Overlay, (self._layers, self._limits)

    def _matches(self, root: _Node, parts: list[bytes]) -> Iterator[tuple[tuple[bytes, ...], _Node]]:
        """Yield what a pattern matches; some twice, where it has several ``**``."""
        lookups = Lookups()
        seen: set[tuple[tuple[bytes, ...], int]] = set()
        several = parts.count(b"**") > 1
        todo: list[tuple[tuple[bytes, ...], _Node, int]] = [((), root, 0)]
        while todo:
            names, node, at = todo.pop()
            if several:
                if (names, at) in seen:
                    continue
                seen.add((names, at))
            if at == len(parts):
                yield names, node
                continue
            part = parts[at]
            if node.member.kind is Kind.SYMLINK:
                led = _led(root, names, lookups)
                if led is None:
                    continue
                node = led
            if node.children is None:
                continue
            if part == b"..":
                lookups.allow(b"/".join(names))
                above, found = _walk(root, (*names, part), follow=True, asked=_text(names), lookups=lookups)
                todo.append((above, found, at + 1))
            elif part == b"**":
                todo.append((names, node, at + 1))
                # Folders are looked into; the last part of a pattern matches what is none, too.
                is_last = at == len(parts) - 1
                for name, child in node.children.items():
                    if child.children is not None or is_last:
                        todo.append(((*names, name), child, at + (child.children is None)))
            else:
                matching = fnmatch.filter(node.children, part) if _WILD.search(part) else {part} & node.children.keys()
                todo += [((*names, name), node.children[name], at + 1) for name in matching]

    # Paths

    def _find(
        self, names: Sequence[bytes], *, follow: bool, asked: str, real: bool = False
    ) -> tuple[tuple[bytes, ...], _Node]:
        """Return what is at a path, and a path to it without ``.`` and ``..``.

        Args:
            names: The parts of the path.
            follow: Whether a symbolic link at the end is followed.
            asked: The path, for messages.
            real: Whether no part of the path that is returned may be a symbolic link, although that takes looking at
                each.
        """
        if self._tree is None:
            try:
                return self._find_from_the_top(names, follow=follow, asked=asked, real=real)
            except _UnsureError:
                pass
        return _walk(self._merged(), names, follow=follow, asked=asked, lookups=Lookups())

    def _find_from_the_top(
        self, names: Sequence[bytes], *, follow: bool, asked: str, real: bool
    ) -> tuple[tuple[bytes, ...], _Node]:
        """Do as `_find`, and touch no layer below the one that decides.

        Raises:
            _UnsureError: It takes all layers to tell, or more work than in the merged tree.
        """
        left = _NAMES_FROM_THE_TOP

        def there(path: tuple[bytes, ...]) -> tuple[_Node, int]:
            nonlocal left
            left -= len(path)
            if left < 0:
                raise _UnsureError
            return self._there(path, asked)

        before: tuple[bytes, ...] = ()
        todo = list(reversed(names))
        links = 0
        at_once = not real
        while True:
            if at_once and b".." not in todo:
                path = (*before, *(name for name in reversed(todo) if name not in {b"", b"."}))
                found, depth = there(path)
                if depth == len(path) and not (found.member.kind is Kind.SYMLINK and follow):
                    return path, found
                if found.member.kind is not Kind.SYMLINK:
                    raise _no_folder(path[:depth], asked)
            at_once = False
            if not todo:
                found, _ = there(before)
                return before, found
            name = todo.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                before = before[:-1]
                continue
            path = (*before, name)
            found, _ = there(path)
            if found.member.kind is Kind.SYMLINK and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise _too_many_links(asked)
                if found.member.link.startswith(b"/"):
                    before = ()
                todo += found.member.link.split(b"/")[::-1]
                at_once = not real
            elif todo and found.children is None:
                raise _no_folder(path, asked)
            else:
                before = path

    def _there(self, path: tuple[bytes, ...], asked: str) -> tuple[_Node, int]:
        """Return what is at a path, or in the way, and after how many parts."""
        found = self._look_up(path)
        if found is None:
            raise _nothing(path, asked)
        depth, node = found
        return node, depth

    def _look_up(self, names: tuple[bytes, ...]) -> tuple[int, _Node] | None:
        """Return what is at a path, or in the way, and after how many parts; None where there is nothing.

        Raises:
            _UnsureError: It takes all layers to tell, or they are merged by now.
        """
        with self._lock:
            if self._tree is not None:
                raise _UnsureError
            return self._search(names, len(self._layers) - 1)

    # From the top

    def _search(self, names: tuple[bytes, ...], top: int) -> tuple[int, _Node] | None:
        """Do as `_look_up`, from a layer downwards, and touch no layer below the one that decides.

        Raises:
            _UnsureError: It takes all layers to tell.
        """
        prefixes = [b"/".join(names[:depth]) for depth in range(len(names) + 1)]
        path = prefixes[-1]
        folders = 0  # the first parts of the path that are folders for sure
        implied = -1  # the lowest layer that implies a folder there
        seen: list[_View] = []
        for number in range(top, -1, -1):
            view = self._view(number)
            seen.append(view)
            view.check(path, names)
            depth, member = view.deepest(prefixes)
            if any(prefix in view.implied for prefix in prefixes[1 : folders + 1]):
                raise _UnsureError  # where its entries went was decided before the folder above came
            if member is not None and member.kind is not Kind.FOLDER:
                if depth > folders:
                    return depth, self._node(number, member, view)
                break  # a folder of a layer above has taken its place
            if member is not None and depth == len(names):
                return depth, _Node(member, number, entry=True, origin=number, children={})
            if path in view.implied:
                implied = number
            if view.hides(prefixes):
                break
            folders = max(folders, view.folders(prefixes))
        if implied >= 0 or not names:
            implied = max(implied, 0)
            return len(names), _Node(_IMPLIED, implied, entry=False, origin=implied, children={})
        # An entry behind a link that leads nowhere makes the folder that it leads to.
        if any(view.may_make(path) for view in seen):
            raise _UnsureError
        return None

    def _node(self, number: int, member: Member, view: _View) -> _Node:
        """Return what an entry that is no folder stands for: a hard link for the file it is another name of."""
        if member.kind is not Kind.HARD_LINK:
            return _Node(member, number, entry=True, origin=number)
        for _ in range(MAX_LINKS):
            target = inside(member.link)
            found = view.entries.get(target)
            if found is None or found.kind is not Kind.HARD_LINK:
                break
            member = found
        else:
            raise _UnsureError
        if found is not None:
            if found.kind is Kind.FOLDER:
                raise _UnsureError
            return _Node(found, number, entry=True, origin=number, hard_link=True)
        names = tuple(target.split(b"/"))
        view.check(target, names)
        prefixes = [b"/".join(names[:depth]) for depth in range(len(names) + 1)]
        if view.hides(prefixes) or view.deepest(prefixes)[0] not in {0, view.folders(prefixes)}:
            raise _UnsureError  # it depends on what came first
        below = self._search(names, number - 1)
        if below is None or below[0] < len(names) or below[1].children is not None:
            raise _UnsureError
        return _Node(below[1].member, number, entry=True, origin=below[1].origin, hard_link=True)

    def _view(self, number: int) -> _View:
        found = self._views.get(number)
        if found is None:
            members = self._layers[number].members
            # A layer that is named twice has the same members.
            same = (view for view in self._views.values() if view.members is members)
            found = next(same, None) or _View(members)
            self._views[number] = found
            self._check(sum(len(view.members) for view in self._views.values()))
        return found

    def _check(self, entries: int) -> None:
        """Refuse more entries than the layers may have together."""
        if entries > self._limits.image_members:
            raise too_many_entries(self._limits)

    # All layers

    def _merged_at(self, path: str) -> tuple[tuple[bytes, ...], _Node]:
        """Return what is at a path, with what is below it."""
        self._merged()
        return self._find(_parts(path), follow=True, asked=path)

    def _merged(self) -> _Node:
        """Return the root of all layers put on each other."""
        with self._lock:
            if self._tree is None:
                all_members = _all_members(self._layers, self._check)
                tree = _MergedTree(self._limits)
                for number, members in enumerate(all_members):
                    tree.put(number, members)
                self._tree = tree.root
                self._views.clear()
            return self._tree


class _UnsureError(Exception):
    """It takes all layers to tell."""


class _View:
    """One layer by itself, as far as it tells without those below.

    Attributes:
        members: They, in order.
        entries: Its entries by path; of the root, if it has one, by the empty path.
        implied: Folders that it has entries in and none for. They may be symbolic links below.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Look at the members of a layer.

        Raises:
            Unsafe: One has a name that leads out of the tree.
        """
        self.members = members
        self._paths = 0  # bytes of those of the implied folders
        self.entries: dict[bytes, Member] = {}
        self.implied: set[bytes] = set()
        self._removed: set[bytes] = set()
        self._opaque: set[bytes] = set()
        # Folders that may be elsewhere, by the names of what is in them, of a layer that has no entry for them.
        self._elsewhere: dict[bytes, set[bytes]] = {}
        self._passed: set[bytes] = set()  # these folders
        self._odd = False  # what it means depends on the order of its entries, and on what is below
        linked: set[bytes] = set()  # what hard links lead to that had no entry before them
        for member in members:
            role, folder, name = place(member.path)
            path = folder + b"/" + name if folder else name
            if role is Role.NOTHING:
                continue
            if role is Role.ENTRY:
                if not path and member.kind is not Kind.FOLDER:
                    raise _not_the_root()
                self._odd = self._odd or path in self.entries or path in self._passed or path in linked
                self.entries[path] = member
                if member.kind is Kind.HARD_LINK and (target := inside(member.link)) not in self.entries:
                    linked.add(target)
            elif role is Role.WHITEOUT:
                self._removed.add(path)
            else:
                self._opaque.add(folder)
            if folder and (role is not Role.ENTRY or folder not in self.implied):
                self._pass(folder, name, makes=role is Role.ENTRY)
            elif folder:
                self._elsewhere.setdefault(name, set()).add(folder)
        if (self._removed or self._opaque) and not self._odd:
            known: dict[bytes, bool] = {}
            self._odd = any(self._is_removed(folder, known) for folder in self.implied)

    def _pass(self, folder: bytes, name: bytes, *, makes: bool) -> None:
        """Take note of the folders that an entry is in."""
        while folder and self._paths <= _MAX_PATHS:
            member = self.entries.get(folder)
            if member is not None:
                self._odd = self._odd or member.kind is not Kind.FOLDER  # through its own link, or below a file
                return  # the folders that a folder is in have been passed
            known = folder in self.implied or (not makes and folder in self._passed)
            self._elsewhere.setdefault(name, set()).add(folder)
            if known:  # and so are those that it is in
                return
            self._passed.add(folder)
            self._paths += len(folder)
            if makes:
                self.implied.add(folder)
            folder, _, name = folder.rpartition(b"/")
        self._odd = self._odd or self._paths > _MAX_PATHS  # the merged tree takes less memory

    def _is_removed(self, folder: bytes, known: dict[bytes, bool]) -> bool:
        """Return whether a whiteout of the layer is about a folder, or one it is in; ``known`` are those looked at."""
        if folder in self._removed:
            return True
        above: list[bytes] = []
        found = False
        while folder and not found:
            folder = folder.rpartition(b"/")[0]
            if folder in known:
                found = known[folder]
                break
            above.append(folder)
            found = folder in self._removed or folder in self._opaque
        known.update(dict.fromkeys(above, found))
        return found

    def check(self, path: bytes, names: tuple[bytes, ...]) -> None:
        """Raise `_UnsureError` if this layer may have something there that is not under its own name."""
        if self._odd:
            raise _UnsureError
        if self._elsewhere:
            for name in (*names, b""):  # the empty one is all that is in an opaque folder
                for folder in self._elsewhere.get(name, ()):
                    if path != folder and not path.startswith(folder + b"/"):
                        raise _UnsureError

    def may_make(self, path: bytes) -> bool:
        """Return whether this layer has entries in folders that are not its own, and may be links to there."""
        return any(not path.startswith(folder + b"/") for folder in self.implied)

    def deepest(self, prefixes: list[bytes]) -> tuple[int, Member | None]:
        """Return what is on the way to a path, as far as there are entries or implied folders."""
        found: tuple[int, Member | None] = (0, self.entries.get(b""))
        for depth in range(1, len(prefixes)):
            member = self.entries.get(prefixes[depth])
            if member is None:
                if prefixes[depth] not in self.implied:
                    break
                continue
            found = depth, member
            if member.kind is not Kind.FOLDER:
                break
        return found

    def folders(self, prefixes: list[bytes]) -> int:
        """Return how many parts of a path, from the first one on, this layer has folders for."""
        depth = 0
        for prefix in prefixes[1:]:
            member = self.entries.get(prefix)
            if member is None or member.kind is not Kind.FOLDER:
                break
            depth += 1
        return depth

    def hides(self, prefixes: list[bytes]) -> bool:
        """Return whether what lower layers have at a path is gone."""
        return any(prefix in self._removed for prefix in prefixes[1:]) or any(
            prefix in self._opaque for prefix in prefixes[:-1]
        )


class _MergedTree:
    """The tree that layers are put on, one after the other, as unpacking does on disk."""

    def __init__(self, limits: LayerLimits) -> None:
        self.root = _Node(_IMPLIED, 0, entry=False, origin=0, children={})
        self._limits = limits
        self._layer = 0
        self._implied = 0  # folders that were made for what is in them
        self._folders: dict[bytes, _Node] = {}  # by path, as long as nothing on the way was removed
        #: Where symbolic links lead, and through how many, as long as nothing was removed.
        self._links: dict[_Node, tuple[_Place, int]] = {}
        self._lookups = Lookups()

    def put(self, layer: int, members: Iterable[Member]) -> None:
        """Put a layer on top.

        Raises:
            Unsafe: An entry has a name that leads out of the tree.
            MalformedDocument: An entry cannot be: it is below a file, or a hard link to what is not there.
        """
        self._layer = layer
        self._folders.clear()  # since they take memory
        for member in members:
            self._lookups.allow(member.path)
            role, path, name = place(member.path)
            if role is Role.NOTHING:
                continue
            folder = self._folders.get(path)
            if folder is None:
                folder = self._enter(path, make=role is Role.ENTRY)
                if folder is None:  # nothing to be removed
                    continue
                self._folders[path] = folder
            assert folder.children is not None  # noqa: S101 - it is a folder
            if role is Role.OPAQUE:
                if folder.cleared != layer:
                    folder.cleared = layer
                    for child in list(folder.children):
                        self._remove(folder.children, child)
            elif role is Role.WHITEOUT:
                if name in folder.children and folder.cleared != layer:
                    self._remove(folder.children, name)
            elif name:
                self._add(folder.children, name, member)
            elif member.kind is Kind.FOLDER:
                self.root.member, self.root.layer, self.root.entry = member, layer, True
            else:
                raise _not_the_root()

    def _add(self, siblings: dict[bytes, _Node], name: bytes, member: Member) -> None:
        before = siblings.get(name)
        if member.kind is Kind.FOLDER and before is not None and before.children is not None:
            before.member, before.layer, before.origin, before.entry = member, self._layer, self._layer, True
            return
        node = _Node(member, self._layer, entry=True, origin=self._layer)
        if member.kind is Kind.FOLDER:
            node.children = {}
        elif member.kind is Kind.HARD_LINK:
            target = self._linked(member)
            if target is before:  # itself
                return
            if before is not None and before.children is not None:
                self._forget(before)
                del siblings[name]
                target = self._linked(member)  # unless it went with that folder
            node.member, node.origin, node.hard_link = target.member, target.origin, True
        if before is not None:
            self._forget(before)
        siblings[name] = node

    def _forget(self, removed: _Node) -> None:
        """Forget where paths lead, if what was removed was on the way of any."""
        if removed.children is not None or removed.member.kind is Kind.SYMLINK:
            self._folders.clear()
            self._links.clear()

    def _linked(self, member: Member) -> _Node:
        path, _, name = inside(member.link).rpartition(b"/")
        folder = self._enter(path, make=False)
        target = None if folder is None or folder.children is None else folder.children.get(name)
        if not name or (target is not None and target.children is not None):
            raise linked_directory(member)
        if target is None:
            raise linked_nothing(member)
        return target

    def _enter(self, path: bytes, *, make: bool) -> _Node | None:
        """Return a folder; None where there is none and none is to be made. Links lead to places inside the root."""
        at: _Place = self.root, None
        todo: list[bytes | _Followed] = [*path.split(b"/")[::-1]]
        links = 0
        while todo:
            name = todo.pop()
            if isinstance(name, _Followed):
                self._links[name.link] = at, links - name.before
                continue
            self._lookups.count()
            if name in {b"", b"."}:
                continue
            node, above = at
            if name == b"..":
                at = at if above is None else above
                continue
            assert node.children is not None  # noqa: S101 - only folders are entered
            child = node.children.get(name)
            if child is None:
                if not make:
                    return None
                child = node.children[name] = self._imply()
            if child.children is not None:
                at = child, at
            elif child.member.kind is Kind.SYMLINK:
                known = self._links.get(child)
                before = links
                links = _bounded(links + (1 if known is None else known[1]), path)
                if known is not None:
                    at = known[0]
                    continue
                todo.append(_Followed(child, before))
                if child.member.link.startswith(b"/"):
                    at = self.root, None
                todo += child.member.link.split(b"/")[::-1]
            elif not make:
                return None  # as where it is missing: there is nothing to be removed, or linked to
            else:
                raise MalformedDocument(f"a layer has an entry below {shown(path)}, which is no folder")
        return at[0]

    def _imply(self) -> _Node:
        """Return a folder that no layer has an entry for."""
        self._implied += 1
        if self._implied > self._limits.image_members:
            raise too_many_entries(self._limits)
        return _Node(_IMPLIED, self._layer, entry=False, origin=self._layer, children={})

    def _remove(self, siblings: dict[bytes, _Node], name: bytes) -> None:
        """Remove what lower layers have put there; a folder in which something stays stays too.

        What is in a folder that was cleared for the same layer is not looked at again: all of it is that layer's.
        """
        # Each folder before what is in it; a tree may be deeper than Python's stack.
        found = [(siblings, name)]
        for owner, own in found:
            node = owner[own]
            if node.children is not None and node.cleared != self._layer:
                node.cleared = self._layer
                found += [(node.children, below) for below in node.children]
        for owner, own in reversed(found):
            node = owner[own]
            if not node.children and not (node.entry and node.layer == self._layer):
                self._forget(node)
                del owner[own]


def _bounded(links: int, path: bytes) -> int:
    """Return a number of symbolic links on the way to an entry.

    Raises:
        LimitExceeded: It is too large.
    """
    if links > MAX_LINKS:
        message = f"a layer has an entry below {shown(path)}, behind more than {MAX_LINKS} symbolic links"
        raise LimitExceeded(message, limit=MAX_LINKS)
    return links


def _led(root: _Node, names: tuple[bytes, ...], lookups: Lookups) -> _Node | None:
    """Return where a symbolic link leads in the merged tree; None if that is nowhere."""
    lookups.allow(b"/".join(names))
    try:
        return _walk(root, names, follow=True, asked=_text(names), lookups=lookups)[1]
    except NotFound:
        return None
    except LimitExceeded as error:
        if error.limit != MAX_LINKS:
            raise
        return None


def _walk(
    root: _Node, names: Sequence[bytes], *, follow: bool, asked: str, lookups: Lookups
) -> tuple[tuple[bytes, ...], _Node]:
    """Return what is at a path in the merged tree, and its path without ``.``, ``..`` and symbolic links.

    Args:
        root: Of the tree.
        names: The parts of the path.
        follow: Whether a symbolic link at the end is followed.
        asked: The path, for messages.
        lookups: Counts the names that are looked up.
    """
    path: list[bytes] = []
    nodes = [root]
    todo = [name for name in reversed(names) if name not in {b"", b"."}]
    links = 0
    while todo:
        name = todo.pop()
        lookups.count()
        if name == b"..":
            if path:
                path.pop()
                nodes.pop()
            continue
        children = nodes[-1].children
        assert children is not None  # noqa: S101 - only folders are entered
        found = children.get(name)
        if found is None:
            raise _nothing((*path, name), asked)
        if found.member.kind is Kind.SYMLINK and (todo or follow):
            links += 1
            if links > MAX_LINKS:
                raise _too_many_links(asked)
            if found.member.link.startswith(b"/"):
                path, nodes = [], [root]
            todo += [part for part in reversed(found.member.link.split(b"/")) if part not in {b"", b"."}]
        elif todo and found.children is None:
            raise _no_folder((*path, name), asked)
        else:
            path.append(name)
            nodes.append(found)
    return tuple(path), nodes[-1]


def _not_the_root() -> Unsafe:
    return Unsafe("a layer has an entry for the root that is no folder")


def _all_members(layers: Sequence[LayerEntries], check: Callable[[int], None]) -> list[Sequence[Member]]:
    """Return the members of all layers, got from several at once: each may wait for the network.

    Args:
        layers: They.
        check: Called with the number of members of the layers that are known so far.
    """
    found: dict[int, Sequence[Member]] = {}
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    todo = list(range(len(layers)))

    def work() -> None:
        while todo:
            try:
                number = todo.pop(0)
                found[number] = layers[number].members
                check(sum(map(len, found.copy().values())))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                todo.clear()
                done.put(error)
                return
        done.put(None)

    # Daemons, since whoever is interrupted does not wait for them.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(layers)))]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            error = done.get()
            if error is not None:
                raise error
    finally:
        todo.clear()
    return [found[number] for number in range(len(layers))]


def _below(path: str, node: _Node) -> Iterator[Entry]:
    """Yield what is below a folder: each folder before what is in it, names sorted."""
    todo = [(path.rstrip("/"), node)]
    while todo:
        path, at = todo.pop()
        if at is not node:
            yield Entry(path, at.member, at.layer, at.hard_link)
        if at.children:
            todo += [
                (f"{path}/{os.fsdecode(name)}", child) for name, child in sorted(at.children.items(), reverse=True)
            ]


def _parts(path: str) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part]


def _text(names: Iterable[bytes]) -> str:
    return os.fsdecode(b"/" + b"/".join(names))


def _entry(names: tuple[bytes, ...], node: _Node) -> Entry:
    return Entry(_text(names), node.member, node.layer, node.hard_link)


def _nothing(names: tuple[bytes, ...], asked: str) -> NotFound:
    led = "" if tuple(_parts(asked)) == names else f": symbolic links lead to {_shown(_text(names))}"
    return NotFound(f"{_shown(asked)} is not there{led}")


def _too_many_links(asked: str) -> LimitExceeded:
    return LimitExceeded(f"{_shown(asked)} leads through more than {MAX_LINKS} symbolic links", limit=MAX_LINKS)


def _no_folder(names: tuple[bytes, ...], asked: str) -> NotFound:
    return NotFound(f"{_shown(asked)} is not there: {_shown(_text(names))} is no folder")


def _shown(path: str) -> str:
    return shown(os.fsencode(path))
