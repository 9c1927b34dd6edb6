"""`Overlay`: the merged tree of all layers of an image, as a container sees it.

A path is searched for from the top layer down, and the search stops at the first layer that decides. If entries of a
layer may go through symbolic links of lower layers, and for listings, all layers are merged in memory in order, as
unpacking does on disk.

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

#: Symbolic links that are followed for one path, as in Linux.
MAX_LINKS = 40

#: Layers whose members are read at the same time.
_AT_ONCE = 4

#: Path components looked up for one path in single layers. If a path needs more, the layers are merged.
_NAMES_FROM_THE_TOP = 4096

#: Bytes of the paths of directories that one layer implies, while the layer is searched on its own.
_MAX_PATHS = 16 * 1024 * 1024

#: The attributes of a directory that no layer has an entry for.
_IMPLIED = Member(path=b"", kind=Kind.FOLDER, mode=0o755)

_WILD = re.compile(rb"[*?\[]")


class LayerEntries(Protocol):
    """A layer of an overlay. `LayerFiles` implements this."""

    @property
    def members(self) -> Sequence[Member]:
        """The entries in the order of the archive. The first access may read the whole layer."""
        ...

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open a file of the layer.

        Args:
            member: One of `members` that is a file.
            strict: Refuse bytes that cannot be verified.
        """
        ...


@frozen(repr=False)
class Entry(Displayed):
    """A name in the merged tree.

    Attributes:
        path: Path from the root, with a leading slash. Bytes that are not UTF-8 are escaped as by `os.fsdecode`.
        member: The entry. For a hard link the entry of its target, whose `Member.path` differs.
        layer: Number of the layer that added the name, 0 for the lowest. For a directory without an entry, the layer
            that implies it.
        hard_link: Whether the name was added by a hard link.
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
        size = f" {human_size(self.member.size)}" if self.member.kind is Kind.FILE else ""
        return f"<Entry {quoted(self.path)} {self.member.kind.noun}{size}, layer {self.layer}>"


@define(eq=False)
class _Node:
    """A name in the merged tree.

    Attributes:
        member: The entry.
        layer: Layer that added the name.
        entry: Whether that layer has an entry for the name, which the layer's own whiteouts leave alone.
        origin: Layer that has the content.
        children: Names in a directory; None for other kinds.
        hard_link: Whether the name was added by a hard link.
        cleared: The last layer whose whiteouts removed all names of lower layers from this directory.
    """

    member: Member
    layer: int
    entry: bool
    origin: int
    children: dict[bytes, _Node] | None = None
    hard_link: bool = False
    cleared: int = -1


#: A directory and the place of its parent, None for the root: a linked list, whose upper parts are shared.
_Place: TypeAlias = "tuple[_Node, _Place | None]"


class _Followed(NamedTuple):
    """Marks, among the names to look up, the end of the target of a symbolic link.

    Attributes:
        link: The link.
        before: Number of links followed before it.
    """

    link: _Node
    before: int


class Overlay:
    """The merged tree of layers. Threads may share an object.

    Paths are text, relative to the root, with or without a leading slash. ``.``, ``..`` and symbolic links are followed
    inside the root.
    """

    def __init__(self, layers: Sequence[LayerEntries], limits: LayerLimits = DEFAULT_LIMITS) -> None:
        """Name the layers. Nothing is read.

        Args:
            layers: The layers, the lowest first, as in manifests.
            limits: ``image_members`` applies.
        """
        self._layers = tuple(layers)
        self._limits = limits
        self._views: dict[int, _View] = {}
        self._tree: _Node | None = None
        self._lock = ForkSafeLock()

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Entry:
        """Return the entry at a path. Layers below the one that decides are not read.

        Args:
            path: The path.
            follow_symlinks: Whether to follow a symbolic link at the end of the path.

        Raises:
            NotFound: The path does not exist, or a parent is not a directory.
            LimitExceeded: The path leads through more than `MAX_LINKS` symbolic links, or the layers have too many
                entries.
            Unsafe: A layer has a name that leads out of the tree.
            MalformedDocument: A layer has an invalid entry.
            DistError: Raised by the layers.
        """
        names, node = self._find(_parts(path), follow=follow_symlinks, asked=path)
        return _entry(names, node)

    def which_layer(self, path: str) -> int:
        """Return the number of the layer, from 0, that added a path. A symbolic link at the end is not followed.

        Args:
            path: The path.

        Raises:
            DistError: As `stat`.
        """
        return self.stat(path, follow_symlinks=False).layer

    def resolve(self, path: str) -> str:
        """Return the path without symbolic links, ``.`` and ``..``.

        Args:
            path: The path.

        Raises:
            DistError: As `stat`.
        """
        names, _ = self._find(_parts(path), follow=True, asked=path, real=True)
        return _text(names)

    def open(self, path: str, *, strict: bool = False) -> MemberFile:
        """Open a file. Its content is fetched when it is read.

        Args:
            path: The path; symbolic links are followed.
            strict: Refuse bytes that cannot be verified.

        Raises:
            NotFound: There is no file at the path.
            Unsafe: ``strict`` is set, and the bytes cannot be verified.
            DistError: As `stat`.
        """
        _, node = self._find(_parts(path), follow=True, asked=path)
        if node.member.kind is not Kind.FILE:
            raise NotFound(f"{_shown(path)} is a {node.member.kind.noun}")
        return self._layers[node.origin].open(node.member, strict=strict)

    def ls(self, path: str = "/") -> list[Entry]:
        """Return the entries in a directory, sorted by name; for any other path, its own entry.

        Args:
            path: The path; symbolic links are followed.

        Raises:
            DistError: As `stat`.
        """
        names, node = self._merged_at(path)
        if node.children is None:
            return [_entry(names, node)]
        return [_entry((*names, name), child) for name, child in sorted(node.children.items())]

    def walk(self, path: str = "/") -> Iterator[Entry]:
        """Yield all entries below a directory, sorted by name, each directory before its entries.

        Args:
            path: The directory; symbolic links in the path are followed, those below it are not.

        Raises:
            DistError: As `stat`, by this call, not by the iterator.
        """
        names, node = self._merged_at(path)
        return _below(_text(names), node)

    def glob(self, pattern: str) -> Iterator[Entry]:
        """Yield the entries that match a pattern, sorted, each once.

        Args:
            pattern: Pattern relative to the root, as for `pathlib.PurePath.full_match`: ``*``, ``?`` and ``[…]`` match
                within a name, including a leading dot; ``**`` matches any number of directories. Symbolic links are
                followed, but not by ``**``.

        Raises:
            DistError: As `stat`, by this call, not by the iterator.
        """
        parts = [part for part in _parts(pattern) if part != b"."]
        root = self._merged()
        found = dict(self._matches(root, parts))
        return (_entry(names, found[names]) for names in sorted(found))

    def __reduce__(self) -> tuple[object, ...]:
        return Overlay, (self._layers, self._limits)

    def _matches(self, root: _Node, parts: list[bytes]) -> Iterator[tuple[tuple[bytes, ...], _Node]]:
        """Yield the matches of a pattern; a pattern with several ``**`` may yield a match twice."""
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
                target = _target(root, names, lookups)
                if target is None:
                    continue
                node = target
            if node.children is None:
                continue
            if part == b"..":
                lookups.allow(b"/".join(names))
                above, found = _walk(root, (*names, part), follow=True, asked=_text(names), lookups=lookups)
                todo.append((above, found, at + 1))
            elif part == b"**":
                todo.append((names, node, at + 1))
                # At the end of a pattern "**" also matches entries that are not directories.
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
        """Return the path of an entry without ``.`` and ``..``, and its node.

        Args:
            names: The components of the path.
            follow: Whether to follow a symbolic link at the end.
            asked: The requested path, for messages.
            real: Whether to return a path without symbolic links, for which each component is looked up.
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
        """Do as `_find` without reading layers below the one that decides.

        Raises:
            _UnsureError: The result depends on all layers, or the merged tree takes less work.
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
        """Return the node at a path or of a parent that is not a directory, and its depth.

        Raises:
            NotFound: The path does not exist.
        """
        found = self._look_up(path)
        if found is None:
            raise _nothing(path, asked)
        depth, node = found
        return node, depth

    def _look_up(self, names: tuple[bytes, ...]) -> tuple[int, _Node] | None:
        """Return the depth and the node at a path or of a parent that is not a directory; None if there is neither.

        Raises:
            _UnsureError: The result depends on all layers, or they are merged by now.
        """
        with self._lock:
            if self._tree is not None:
                raise _UnsureError
            return self._search(names, len(self._layers) - 1)

    # From the top

    def _search(self, names: tuple[bytes, ...], top: int) -> tuple[int, _Node] | None:
        """Do as `_look_up`, from layer ``top`` down to the one that decides.

        Raises:
            _UnsureError: The result depends on all layers.
        """
        prefixes = [b"/".join(names[:depth]) for depth in range(len(names) + 1)]
        path = prefixes[-1]
        folders = 0  # number of leading components that are certainly directories
        implied = -1  # the lowest layer that implies a directory at the path
        seen: list[_View] = []
        for number in range(top, -1, -1):
            view = self._view(number)
            seen.append(view)
            view.check(path, names)
            depth, member = view.deepest(prefixes)
            if any(prefix in view.implied for prefix in prefixes[1 : folders + 1]):
                raise _UnsureError  # its entries may have gone through a link before the directory above replaced it
            if member is not None and member.kind is not Kind.FOLDER:
                if depth > folders:
                    return depth, self._node(number, member, view)
                break  # a directory of a layer above replaced it
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
        # An entry below a dangling link creates the directory that the link leads to.
        if any(view.may_make(path) for view in seen):
            raise _UnsureError
        return None

    def _node(self, number: int, member: Member, view: _View) -> _Node:
        """Return the node of an entry that is not a directory; for a hard link with the entry of its target."""
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
            raise _UnsureError  # the result depends on the order of the entries
        below = self._search(names, number - 1)
        if below is None or below[0] < len(names) or below[1].children is not None:
            raise _UnsureError
        return _Node(below[1].member, number, entry=True, origin=below[1].origin, hard_link=True)

    def _view(self, number: int) -> _View:
        found = self._views.get(number)
        if found is None:
            members = self._layers[number].members
            # A layer that the image lists twice has the same members.
            same = (view for view in self._views.values() if view.members is members)
            found = next(same, None) or _View(members)
            self._views[number] = found
            self._check(sum(len(view.members) for view in self._views.values()))
        return found

    def _check(self, entries: int) -> None:
        """Refuse too many entries of all layers together."""
        if entries > self._limits.image_members:
            raise too_many_entries(self._limits)

    # All layers

    def _merged_at(self, path: str) -> tuple[tuple[bytes, ...], _Node]:
        """Return the path and the node at a path in the merged tree."""
        self._merged()
        return self._find(_parts(path), follow=True, asked=path)

    def _merged(self) -> _Node:
        """Return the root of the merged tree."""
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
    """A single layer cannot decide; merge all layers."""


class _View:
    """One layer on its own, as far as it decides without the layers below.

    Attributes:
        members: The members in order.
        entries: The entries by path; an entry for the root has the empty path.
        implied: Directories that have entries in this layer but no entry of their own. Lower layers may have symbolic
            links there.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Index the members of a layer.

        Raises:
            Unsafe: A member has a name that leads out of the tree.
        """
        self.members = members
        self._paths = 0  # bytes of the paths of implied directories
        self.entries: dict[bytes, Member] = {}
        self.implied: set[bytes] = set()
        self._removed: set[bytes] = set()
        self._opaque: set[bytes] = set()
        # Directories without an entry, which may be links in lower layers, by the names that this layer has in them.
        self._elsewhere: dict[bytes, set[bytes]] = {}
        self._passed: set[bytes] = set()  # those directories
        self._odd = False  # whether the result depends on the order of the entries and on lower layers
        linked: set[bytes] = set()  # targets of hard links that had no entry before the link
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
        """Record the parent directories of an entry."""
        while folder and self._paths <= _MAX_PATHS:
            member = self.entries.get(folder)
            if member is not None:
                self._odd = self._odd or member.kind is not Kind.FOLDER  # below a link or a file of this layer
                return  # the parents of an entry are recorded
            known = folder in self.implied or (not makes and folder in self._passed)
            self._elsewhere.setdefault(name, set()).add(folder)
            if known:  # so its parents are recorded too
                return
            self._passed.add(folder)
            self._paths += len(folder)
            if makes:
                self.implied.add(folder)
            folder, _, name = folder.rpartition(b"/")
        self._odd = self._odd or self._paths > _MAX_PATHS  # the merged tree takes less memory

    def _is_removed(self, folder: bytes, known: dict[bytes, bool]) -> bool:
        """Return whether a whiteout of the layer removes a directory or a parent; ``known`` caches results."""
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
        """Raise `_UnsureError` if an entry of this layer may be at the path although it has another name."""
        if self._odd:
            raise _UnsureError
        if self._elsewhere:
            for name in (*names, b""):  # the empty name is that of an opaque whiteout
                for folder in self._elsewhere.get(name, ()):
                    if path != folder and not path.startswith(folder + b"/"):
                        raise _UnsureError

    def may_make(self, path: bytes) -> bool:
        """Return whether this layer has entries in implied directories that may be links to the path."""
        return any(not path.startswith(folder + b"/") for folder in self.implied)

    def deepest(self, prefixes: list[bytes]) -> tuple[int, Member | None]:
        """Return the last entry on the way to a path, and its depth, as far as entries and implied directories lead."""
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
        """Return how many leading components of a path are directories with entries in this layer."""
        depth = 0
        for prefix in prefixes[1:]:
            member = self.entries.get(prefix)
            if member is None or member.kind is not Kind.FOLDER:
                break
            depth += 1
        return depth

    def hides(self, prefixes: list[bytes]) -> bool:
        """Return whether whiteouts of this layer hide the path in lower layers."""
        return any(prefix in self._removed for prefix in prefixes[1:]) or any(
            prefix in self._opaque for prefix in prefixes[:-1]
        )


class _MergedTree:
    """The tree to which layers are added one after the other, as unpacking does on disk."""

    def __init__(self, limits: LayerLimits) -> None:
        self.root = _Node(_IMPLIED, 0, entry=False, origin=0, children={})
        self._limits = limits
        self._layer = 0
        self._implied = 0  # number of directories without an entry
        self._folders: dict[bytes, _Node] = {}  # cache by path, cleared when a directory or link is removed
        #: Targets of symbolic links and the number of links on the way; cleared likewise.
        self._links: dict[_Node, tuple[_Place, int]] = {}
        self._lookups = Lookups()

    def put(self, layer: int, members: Iterable[Member]) -> None:
        """Add a layer on top.

        Raises:
            Unsafe: An entry has a name that leads out of the tree.
            MalformedDocument: An entry is invalid: below a file, or a hard link whose target is missing.
        """
        self._layer = layer
        self._folders.clear()  # frees memory
        for member in members:
            self._lookups.allow(member.path)
            role, path, name = place(member.path)
            if role is Role.NOTHING:
                continue
            folder = self._folders.get(path)
            if folder is None:
                folder = self._enter(path, make=role is Role.ENTRY)
                if folder is None:  # a whiteout without a target
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
            if target is before:  # a link to itself
                return
            if before is not None and before.children is not None:
                self._forget(before)
                del siblings[name]
                target = self._linked(member)  # fails if the target was in that directory
            node.member, node.origin, node.hard_link = target.member, target.origin, True
        if before is not None:
            self._forget(before)
        siblings[name] = node

    def _forget(self, removed: _Node) -> None:
        """Clear the caches of paths if the removed node may be on the way of one."""
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
        """Return a directory, following links inside the root; create it if ``make`` is set, else None if missing."""
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
                return None  # nothing to remove or to link to
            else:
                raise MalformedDocument(f"a layer has an entry below {shown(path)}, which is not a directory")
        return at[0]

    def _imply(self) -> _Node:
        """Return a new directory without an entry."""
        self._implied += 1
        if self._implied > self._limits.image_members:
            raise too_many_entries(self._limits)
        return _Node(_IMPLIED, self._layer, entry=False, origin=self._layer, children={})

    def _remove(self, siblings: dict[bytes, _Node], name: bytes) -> None:
        """Remove a name of lower layers, and all below it. Entries of this layer and their parents stay.

        A directory that was cleared for this layer is not searched again, since all in it belongs to this layer.
        """
        # A list instead of recursion: a tree may be deeper than Python's stack. Directories precede their entries.
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
    """Return the number of symbolic links on the way to an entry.

    Raises:
        LimitExceeded: The number exceeds `MAX_LINKS`.
    """
    if links > MAX_LINKS:
        message = f"a layer has an entry below {shown(path)}, behind more than {MAX_LINKS} symbolic links"
        raise LimitExceeded(message, limit=MAX_LINKS)
    return links


def _target(root: _Node, names: tuple[bytes, ...], lookups: Lookups) -> _Node | None:
    """Return the target of a symbolic link in the merged tree; None if it does not exist."""
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
    """Return the path of an entry in the merged tree without ``.``, ``..`` and symbolic links, and its node.

    Args:
        root: Root of the tree.
        names: The components of the path.
        follow: Whether to follow a symbolic link at the end.
        asked: The requested path, for messages.
        lookups: Counts the lookups.
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
    return Unsafe("a layer has an entry for the root that is not a directory")


def _all_members(layers: Sequence[LayerEntries], check: Callable[[int], None]) -> list[Sequence[Member]]:
    """Return the members of all layers, reading several layers at the same time.

    Args:
        layers: The layers.
        check: Called with the number of members read so far; may raise.
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

    # Daemon threads, so that an interrupted caller does not wait for them.
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
    """Yield the entries below a directory, sorted by name, each directory before its entries."""
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
    cause = "" if tuple(_parts(asked)) == names else f": symbolic links lead to {_shown(_text(names))}"
    return NotFound(f"{_shown(asked)} not found{cause}")


def _too_many_links(asked: str) -> LimitExceeded:
    return LimitExceeded(f"{_shown(asked)} leads through more than {MAX_LINKS} symbolic links", limit=MAX_LINKS)


def _no_folder(names: tuple[bytes, ...], asked: str) -> NotFound:
    return NotFound(f"{_shown(asked)} not found: {_shown(_text(names))} is not a directory")


def _shown(path: str) -> str:
    return shown(os.fsencode(path))
