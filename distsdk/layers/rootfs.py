"""`RootfsWriter`: write layers to a directory, and nothing outside of it.

No path with a slash is passed to the kernel: every name is looked up in an open directory, without following links.
Symbolic links are followed in Python, relative to the target directory as their root. Therefore another process that
replaces a directory by a link during the write cannot redirect it (CVE-2018-15664).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from attrs import define

from distsdk._text import human_size
from distsdk.errors import DistError, LimitExceeded, MalformedDocument, Unsafe
from distsdk.layers.lookups import Lookups
from distsdk.layers.member import Kind, Role, inside, linked_directory, linked_nothing, place, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distsdk.layers.member import Member

    T = TypeVar("T")

#: File in the root from before the first write until the tree is complete. Layers must not have an entry of this name
#: in any directory, since `unpack` empties a directory that has the marker of an earlier `unpack`.
MARKER = b".distsdk-unpacking"

#: Symbolic links that may be followed for one path, as in Linux.
_MAX_LINKS = 40
#: Directories that are kept open. macOS allows a process 256 files.
_MAX_OPEN = 128

#: Bytes of memory for the cache of real paths.
_MAX_REMEMBERED = 16 * 1024 * 1024
#: Bytes of the paths of all directories whose times are set at the end. Links can multiply them.
_MAX_PATHS = 64 * 1024 * 1024

# Constants that Windows lacks are 0 there; `unpack` refuses Windows.
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_OPEN = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC
#: Looking up names in a directory does not need the right to read it; only Linux can open one that way.
_ENTER = _OPEN | getattr(os, "O_PATH", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC

#: Errors of attributes that a file system does not support, that this user may not set, or for which there is no room
#: (ext4 has one block for them, whatever is free); and the error of a missing /proc.
_NO_XATTR = {
    *(errno.ENOENT, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.E2BIG, errno.ERANGE),
    *(errno.ENOSPC, errno.EDQUOT),
}
#: Attributes of overlayfs, which it would obey if the tree were mounted as one of its layers.
_NEVER_SET = (b"user.overlay.", b"trusted.overlay.")


class _Folder(NamedTuple):
    """The final attributes of a directory, set at the end since later entries change its time."""

    mode: int
    uid: int = -1  # keep the owner
    gid: int = -1
    times: tuple[int, int] | None = None
    xattrs: Mapping[bytes, bytes] | None = None
    merged: bool = False  # whether the directory existed before, and may have other attributes


class _Followed(NamedTuple):
    """Marks, among the names to look up, the end of the target of a symbolic link.

    Attributes:
        link: Real path of the link.
        before: Number of links followed before it.
    """

    link: bytes
    before: int


@define(eq=False)
class _Level:
    """A directory on the way down while a tree is removed."""

    path: bytes
    identity: tuple[int, int]
    folders: list[bytes]
    kept: bool  # whether an entry in it stays


class RootfsWriter:
    """Writes the entries of layers to an open directory.

    Attributes:
        owners: Whether owners are set, which only the superuser may do.
        removed: Number of whiteouts so far.
        devices_skipped: Number of device nodes that were not created.
        xattrs_refused: Number of extended attributes that were not set.
    """

    def __init__(self, root: int, *, devices: bool) -> None:
        """Take ownership of an open directory.

        Args:
            root: Descriptor of the directory; `close` closes it.
            devices: Create device nodes.
        """
        self.owners = os.geteuid() == 0
        self.removed = self.devices_skipped = self.xattrs_refused = 0
        self._root = root
        self._devices = devices
        self._marker: bytes | None = None  # text of a marker that is still to be written
        self._open = {b"": root}  # descriptors by real path: a path without symbolic links
        self._real = {b"": b""}  # real paths by the paths in entries
        self._links: dict[bytes, tuple[bytes, int]] = {}  # real targets of links, and the number of links on the way
        self._remembered = 0  # bytes of memory for both
        self._folders: dict[bytes, _Folder] = {}
        self._paths = 0  # bytes of the paths in `_folders`
        self._stale = False  # whether cached paths may be wrong
        #: Hashes of the real paths that this layer wrote, which its own whiteouts leave alone. Python's hash of bytes
        #: is keyed, so that collisions cannot be prepared; a random one would keep a file of a lower layer.
        self._written: set[int] = set()
        #: Likewise, directories that this layer's whiteouts have cleared: all in them belongs to this layer.
        self._cleared: set[int] = set()
        self._lookups = Lookups()

    def close(self) -> None:
        """Close all open directories."""
        for folder in self._open.values():
            os.close(folder)
        self._open = {}

    def mark(self, text: bytes) -> None:
        """Write the marker before the first entry: from then on the tree is incomplete.

        Args:
            text: Content of the marker.
        """
        self._marker = text

    def _write_marker(self, text: bytes) -> None:
        self._expect(b"", _as_it_is(self._root))
        marker = os.open(MARKER, _CREATE, 0o600, dir_fd=self._root)
        try:
            os.write(marker, text)
        finally:
            os.close(marker)
        self._marker = None

    def marked(self) -> bytes | None:
        """Return the content of the marker; None if there is no marker."""
        try:
            marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | _CLOEXEC, dir_fd=self._root)
        except FileNotFoundError:
            return None
        except OSError:
            return b""  # the name exists, but is not a readable file
        try:
            return os.read(marker, 64)
        finally:
            os.close(marker)

    def is_empty(self) -> bool:
        """Return whether the directory is empty."""
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    def empty(self) -> None:
        """Remove everything in the directory."""
        self._remove_below(self._root, b"", None)

    def next_layer(self) -> None:
        """Start a layer; everything written before belongs to lower layers now."""
        self._written.clear()
        self._cleared.clear()

    def finish(self) -> None:
        """Set the owners, modes, attributes and times of directories, and remove the marker."""
        self._forget()
        root = self._folders.pop(b"", None)
        # Children first: a mode may deny its owner access.
        for path in sorted(self._folders, reverse=True):
            self._lookups.allow(path)
            with suppress(FileNotFoundError, NotADirectoryError):  # removed or replaced later
                folder = self._open_real(path)
                try:
                    self._finish_folder(folder, self._folders[path])
                finally:
                    os.close(folder)
        if self._marker is None:
            os.unlink(MARKER, dir_fd=self._root)
        if root is not None:
            self._finish_folder(self._root, root)

    def add(self, member: Member, content: Iterator[memoryview]) -> None:
        """Write an entry of a layer, or apply a whiteout.

        Args:
            member: The entry.
            content: Its stored bytes.

        Raises:
            Unsafe: The name of the entry, or the target of a hard link, leads outside.
            MalformedDocument: The entry is invalid: below a file, or a hard link to a missing name or a directory.
            OSError: The entry cannot be written; ``filename`` is its path.
        """
        role, folder_path, name = place(member.path)
        self.check(member, role, name)
        self._lookups.allow(member.path)
        if self._marker is not None:
            self._write_marker(self._marker)
        if self._stale:
            self._forget()
        try:
            if role is Role.ENTRY:
                self._add(member, content, folder_path, name)
            elif role is not Role.NOTHING:
                self.removed += 1
                self._white_out(folder_path, name)
        except OSError as error:
            if not isinstance(error, DistError):  # a DistError is about reading the layer
                error.filename = os.fsdecode(member.path)
            raise

    @staticmethod
    def check(member: Member, role: Role, name: bytes) -> None:
        """Refuse an entry that must not be written to any directory.

        Args:
            member: The entry.
            role: Its role, from `place`.
            name: Its name in its directory, from `place`.

        Raises:
            Unsafe: The entry has the name of the marker, is a hard link to it or to a path outside, or is for the root
                and not a directory.
        """
        if role is not Role.ENTRY:
            return
        if member.kind is Kind.HARD_LINK and _name(inside(member.link)).lower() == MARKER:
            raise Unsafe(
                f"hard link {shown(member.path)} of a layer refused: its target {shown(member.link)} is the name of "
                "the marker of incomplete trees"
            )
        if name.lower() == MARKER:
            raise Unsafe(f"entry name {shown(member.path)} of a layer refused: it marks incomplete trees")
        if not name and member.kind is not Kind.FOLDER:
            raise Unsafe("a layer has an entry for the root that is not a directory")

    def _add(self, member: Member, content: Iterator[memoryview], folder_path: bytes, name: bytes) -> None:
        if not name:
            self._expect(b"", self._folder_of(member, merged=True))
            return
        try:
            real, folder = self._enter(folder_path, make=True)
        except NotADirectoryError as error:
            message = f"a layer's entry {shown(member.path)} has a parent that is not a directory"
            raise MalformedDocument(message) from error
        if real not in self._folders:
            self._expect(real, _as_it_is(folder))
        path = _join(real, name)
        kind = member.kind
        if kind is Kind.FILE:
            self._add_file(member, content, folder, path)
        elif kind is Kind.FOLDER:
            self._add_folder(member, folder, path)
        elif kind is Kind.SYMLINK:
            self._make(lambda: os.symlink(member.link, name, dir_fd=folder), folder, path)
            self._finish_special(member, folder, name)
        elif kind is Kind.HARD_LINK:
            self._add_hard_link(member, folder, path)
        elif kind is Kind.FIFO:
            self._make(lambda: os.mkfifo(name, 0o600, dir_fd=folder), folder, path)
            self._finish_special(member, folder, name)
        elif self._devices:
            mode = 0o600 | (stat.S_IFCHR if kind is Kind.CHARACTER_DEVICE else stat.S_IFBLK)
            device = os.makedev(*member.device)
            self._make(lambda: os.mknod(name, mode, device, dir_fd=folder), folder, path)
            self._finish_special(member, folder, name)
        else:
            self.devices_skipped += 1
            with suppress(FileNotFoundError):  # the name that it would replace
                self._remove(folder, path, None)
        self._written.add(hash(path))

    def _add_file(self, member: Member, content: Iterator[memoryview], folder: int, path: bytes) -> None:
        name = _name(path)
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._remove(folder, path, None)  # never opened: it may be a hard link to a file outside
            file = os.open(name, _CREATE, 0o600, dir_fd=folder)
        try:
            if member.parts:
                _write_parts(file, content, member.parts)
            else:
                for piece in content:
                    written = os.write(file, piece)
                    while written < len(piece):
                        written += os.write(file, piece[written:])
            if member.size != member.stored:
                os.ftruncate(file, member.size)
            if self.owners:
                os.fchown(file, member.uid, member.gid)
            os.fchmod(file, self._mode(member))  # after chown, which clears setuid
            if member.xattrs:
                self._set_xattrs(file, member.xattrs)
            os.utime(file, ns=(member.mtime, member.mtime))
        finally:
            os.close(file)

    def _add_folder(self, member: Member, folder: int, path: bytes) -> None:
        name = _name(path)
        merged = False
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            merged = stat.S_ISDIR(_status(folder, name).st_mode)
            if not merged:
                self._remove(folder, path, None)
                os.mkdir(name, 0o700, dir_fd=folder)
        self._expect(path, self._folder_of(member, merged=merged))

    def _add_hard_link(self, member: Member, folder: int, path: bytes) -> None:
        source_path, _, source_name = inside(member.link).rpartition(b"/")
        self._lookups.allow(member.link)
        name = _name(path)
        if not source_name:  # the root
            raise linked_directory(member)

        def link() -> None:
            try:
                # A hard link to a symbolic link is a second name of that link, which is not followed.
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            except PermissionError as error:
                if not stat.S_ISDIR(_status(source, source_name).st_mode):
                    raise
                raise linked_directory(member) from error

        folder = os.dup(folder)  # `_enter` may close the original
        try:
            _, source = self._enter(source_path, make=False)
            try:
                link()
            except FileExistsError:
                status = _status(source, source_name)
                if stat.S_ISDIR(status.st_mode):
                    raise linked_directory(member) from None
                if not os.path.samestat(status, _status(folder, name)):
                    self._remove(folder, path, None)
                    link()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise linked_nothing(member) from error
        finally:
            os.close(folder)

    def _make(self, make: Callable[[], T], folder: int, path: bytes) -> T:
        """Create an entry, and remove an existing one of that name first."""
        try:
            return make()
        except FileExistsError:
            self._remove(folder, path, None)
            return make()

    def _finish_special(self, member: Member, folder: int, name: bytes) -> None:
        """Set owner, mode, attributes and time of a link, pipe or device, which must not be opened."""
        if self.owners:
            os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(name, self._mode(member), dir_fd=folder, follow_symlinks=False)
        if member.xattrs:
            # Attributes are set on a path or an open file only. This path leads into the open directory and no further.
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (folder, name), member.xattrs)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=folder, follow_symlinks=False)

    # Folders

    def _mode(self, member: Member) -> int:
        """Return the mode to set: without setuid and setgid if the owner is not set, since they would be the user's."""
        return member.mode if self.owners else member.mode & 0o1777

    def _folder_of(self, member: Member, *, merged: bool) -> _Folder:
        uid, gid = (member.uid, member.gid) if self.owners else (-1, -1)
        return _Folder(self._mode(member), uid, gid, (member.mtime, member.mtime), member.xattrs, merged)

    def _finish_folder(self, folder: int, final: _Folder) -> None:
        if final.uid >= 0:
            os.fchown(folder, final.uid, final.gid)
        if final.uid >= 0 or stat.S_IMODE(os.fstat(folder).st_mode) != final.mode:
            os.fchmod(folder, final.mode)
        if final.merged:
            self._clear_xattrs(folder, final.xattrs or {})
        if final.xattrs:
            self._set_xattrs(folder, final.xattrs)
        if final.times:
            try:
                os.utime(folder, ns=final.times)
            except PermissionError:
                if final.xattrs is not None:  # else the directory has no entry, and may belong to another user
                    raise

    def _enter(self, path: bytes, *, make: bool) -> tuple[bytes, int]:
        """Return the real path of a directory, and a descriptor that stays open during this entry.

        Args:
            path: Path from `inside`; its symbolic links are followed inside the root.
            make: Create missing directories.

        Raises:
            FileNotFoundError: A directory is missing, and ``make`` is false.
            NotADirectoryError: A component is not a directory.
            Unsafe: There are too many symbolic links on the way.
            LimitExceeded: Symbolic links have led through too many directories.
        """
        real = self._real.get(path)
        if real is not None:
            return real, self._open_again(real)
        real, names = self._nearest(path)
        todo: list[bytes | _Followed] = [*names]
        folder = self._open_again(real)
        links = 0
        while todo:
            name = todo.pop()
            if isinstance(name, _Followed):
                self._make_room(name.link, real)
                self._links[name.link] = real, links - name.before
                continue
            self._lookups.count()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                real = real.rpartition(b"/")[0]
                folder = self._open_again(real)
                continue
            below = _join(real, name)
            known = self._links.get(below)
            if known is not None:
                real, more = known
                links = _bounded(links + more, path)
                folder = self._open_again(real)
                continue
            found = self._open.get(below)
            if found is None:
                try:
                    found = self._open_folder(folder, name, below, make=make)
                except NotADirectoryError:
                    target = self._target_of(folder, name)
                    if target is None:
                        raise
                    todo.append(_Followed(below, links))
                    links = _bounded(links + 1, path)
                    if target.startswith(b"/"):
                        real, folder = b"", self._root
                    todo += reversed(target.split(b"/"))
                    continue
            real, folder = below, found
        self._make_room(path, real)
        self._real[path] = real
        return real, folder

    def _make_room(self, path: bytes, real: bytes) -> None:
        """Account for one more cached path, and clear the cache if it takes too much memory."""
        self._remembered += len(path) + len(real) + 200
        if self._remembered > _MAX_REMEMBERED:
            self._forget_paths()

    def _forget_paths(self) -> None:
        self._real.clear()
        self._real[b""] = b""
        self._links.clear()
        self._remembered = 0

    def _nearest(self, path: bytes) -> tuple[bytes, list[bytes]]:
        """Return the real path of the nearest open parent, and the remaining names in reverse order."""
        above = path
        while above:
            above = above.rpartition(b"/")[0]
            real = self._real.get(above)
            if real is not None and real in self._open:
                return real, path[len(above) :].split(b"/")[::-1]
        return b"", path.split(b"/")[::-1]

    def _open_folder(self, folder: int, name: bytes, path: bytes, *, make: bool) -> int:
        """Open a directory in a directory, and keep it open.

        Raises:
            NotADirectoryError: The name is not a directory; it may be a symbolic link.
        """
        try:
            try:
                found = os.open(name, _ENTER, dir_fd=folder)
            except FileNotFoundError:
                if not make:
                    raise
                os.mkdir(name, 0o700, dir_fd=folder)
                self._expect(path, _Folder(0o755))
                found = os.open(name, _ENTER, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:  # the error of some systems for a symbolic link
                raise NotADirectoryError(*error.args) from error
            raise
        self._open[path] = found
        if not self.owners:
            self._grant_access(folder, name, path, found)
        if len(self._open) > _MAX_OPEN:
            self._close_oldest()
        return found

    def _grant_access(self, folder: int, name: bytes, path: bytes, found: int) -> None:
        """Give the owner of a directory all rights until the end."""
        mode = stat.S_IMODE(os.fstat(found).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            if path not in self._folders:
                self._expect(path, _as_it_is(found))
            os.chmod(name, mode | stat.S_IRWXU, dir_fd=folder, follow_symlinks=False)

    def _open_again(self, path: bytes) -> int:
        """Return the descriptor of a directory by its real path, opened again if it was closed; mark it as used."""
        if not path:
            return self._root
        folder = self._open.pop(path, None)
        if folder is not None:
            self._open[path] = folder
            return folder
        above, missing = path, []
        while folder is None:
            above, _, name = above.rpartition(b"/")
            missing.append(name)
            folder = self._open.get(above)
        for name in reversed(missing):
            self._lookups.count()
            above = _join(above, name)
            folder = self._open_folder(folder, name, above, make=False)
        return folder

    def _open_real(self, path: bytes) -> int:
        """Open a directory by its real path, to be closed by the caller.

        Raises:
            FileNotFoundError, NotADirectoryError: The directory was removed or replaced.
        """
        parent, _, name = path.rpartition(b"/")
        try:
            return os.open(name, _OPEN, dir_fd=self._open_again(parent))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(*error.args) from error
            raise

    @staticmethod
    def _target_of(folder: int, name: bytes) -> bytes | None:
        """Return the target of a symbolic link; None if the name is not a link."""
        try:
            return os.readlink(name, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def _close_oldest(self) -> None:
        """Close the half of the open directories that was used least recently."""
        for path in list(self._open)[1 : len(self._open) // 2 + 1]:  # the root is the first
            os.close(self._open.pop(path))

    def _forget(self) -> None:
        """Clear all cached paths and descriptors, after a directory or a link was removed."""
        for path in list(self._open)[1:]:
            os.close(self._open.pop(path))
        self._forget_paths()
        self._stale = False

    def _expect(self, path: bytes, folder: _Folder) -> None:
        """Record the final attributes of a directory.

        Raises:
            LimitExceeded: The paths of the directories take too much memory.
        """
        if path not in self._folders:
            self._paths += len(path)
            if self._paths > _MAX_PATHS:
                message = f"the paths of a layer's directories exceed the limit of {human_size(_MAX_PATHS)}"
                raise LimitExceeded(message, limit=_MAX_PATHS)
        self._folders[path] = folder

    # Removing

    def _white_out(self, folder_path: bytes, name: bytes) -> None:
        """Remove a name of lower layers, or all names in a directory if ``name`` is empty."""
        try:
            real, folder = self._enter(folder_path, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return  # umoci also writes whiteouts for the entries of a directory that a file replaced
        if hash(real) in self._cleared:
            return
        if real not in self._folders:
            self._expect(real, _as_it_is(folder))
        if not name:
            self._remove_below(folder, real, self._written)
            return
        with suppress(FileNotFoundError):
            self._remove(folder, _join(real, name), self._written)

    def _remove(self, folder: int, path: bytes, keep: set[int] | None) -> None:
        """Remove an entry of any kind from a directory.

        Args:
            folder: Descriptor of the directory.
            path: Real path of the entry.
            keep: Hashes of the paths that stay; None to remove all.

        Raises:
            FileNotFoundError: The entry does not exist.
        """
        name = _name(path)
        if path == MARKER:
            return
        mode = _status(folder, name).st_mode
        if stat.S_ISDIR(mode):
            if keep is None or hash(path) not in self._cleared:
                self._remove_tree(folder, path, keep)
            elif hash(path) not in keep:
                self._remove_if_empty(folder, path)
        elif keep is None or hash(path) not in keep:
            os.unlink(name, dir_fd=folder)
            self._stale = self._stale or stat.S_ISLNK(mode)

    def _remove_below(self, folder: int, path: bytes, keep: set[int] | None) -> None:
        """Remove all entries of a directory."""
        opened = os.open(b".", _OPEN, dir_fd=folder)
        try:
            for name in self._sweep(opened, path, keep).folders:
                self._remove_tree(opened, _join(path, name), keep)
        finally:
            os.close(opened)

    def _remove_tree(self, folder: int, path: bytes, keep: set[int] | None) -> None:
        """Remove a directory and all below it, except entries to keep and their parents.

        A directory that was cleared for this layer is not swept again, so that whiteouts take linear work. The depth
        does not matter: two descriptors are open, and there is no recursion. On the way up each parent is compared with
        the directory that was left on the way down.

        Raises:
            Unsafe: A file system is mounted below, or another process moves directories at the same time.
        """
        at = self._open_to_remove(folder, path)
        try:
            levels = [self._sweep(at, path, keep)]
            device, _ = levels[0].identity
            if device != os.fstat(folder).st_dev:
                raise _mounted(path)
            while levels:
                level = levels[-1]
                if level.folders:
                    below = _join(level.path, level.folders.pop())
                    if keep is not None and hash(below) in self._cleared:
                        level.kept |= hash(below) in keep or not self._remove_if_empty(at, below)
                        continue
                    found = self._open_to_remove(at, below)
                    os.close(at)
                    at = found
                    if os.fstat(at).st_dev != device:
                        raise _mounted(below)
                    levels.append(self._sweep(at, below, keep))
                    continue
                levels.pop()
                if levels:
                    found = os.open(b"..", _OPEN, dir_fd=at)
                    os.close(at)
                    at = found
                    if _identity(at) != levels[-1].identity:
                        raise Unsafe(f"removal of {shown(level.path)} failed: another process moved it")
                    levels[-1].kept |= level.kept
                if not level.kept:
                    os.rmdir(_name(level.path), dir_fd=at if levels else folder)
                    self._stale = True
        finally:
            os.close(at)

    def _remove_if_empty(self, folder: int, path: bytes) -> bool:
        """Remove a directory if it is empty, and return whether it was removed."""
        try:
            os.rmdir(_name(path), dir_fd=folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        self._stale = True
        return True

    def _sweep(self, folder: int, path: bytes, keep: set[int] | None) -> _Level:
        """Remove all entries of a directory except directories, and return a level with those."""
        level = _Level(path, _identity(folder), [], keep is not None and hash(path) in keep)
        with os.scandir(folder) as entries:
            found = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False), e.is_symlink()) for e in entries]
        for name, is_folder, is_link in found:
            below = _join(path, name)
            if is_folder:
                level.folders.append(name)
            elif keep is not None and hash(below) in keep:
                level.kept = True
            elif below != MARKER:
                os.unlink(name, dir_fd=folder)
                self._stale = self._stale or is_link
        if keep is not None:
            self._cleared.add(hash(path))
        return level

    def _open_to_remove(self, folder: int, path: bytes) -> int:
        name = _name(path)
        if not self.owners:
            entered = os.open(name, _ENTER, dir_fd=folder)
            try:
                self._grant_access(folder, name, path, entered)
            finally:
                os.close(entered)
        return os.open(name, _OPEN, dir_fd=folder)

    # Extended attributes

    def _may_set(self, name: bytes) -> bool:
        """Return whether a layer may have an attribute, and this user may set it.

        Attributes such as `security.selinux` belong to the machine, and are not set.
        """
        if name.startswith(_NEVER_SET) or not hasattr(os, "setxattr"):
            return False
        if name.startswith((b"user.", b"system.posix_acl_")):
            return True
        return self.owners and (name == b"security.capability" or name.startswith(b"trusted."))

    def _set_xattrs(self, file: int | bytes, xattrs: Mapping[bytes, bytes]) -> None:
        """Set attributes of an open file, or of a path without following a symbolic link."""
        for name, value in xattrs.items():
            if not self._may_set(name):
                self.xattrs_refused += 1
                continue
            try:
                os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno not in _NO_XATTR:
                    raise
                self.xattrs_refused += 1

    def _clear_xattrs(self, folder: int, keep: Mapping[bytes, bytes]) -> None:
        """Remove the attributes that a layer may set, except those in ``keep``."""
        if not hasattr(os, "listxattr"):
            return
        try:
            for name in map(os.fsencode, os.listxattr(folder)):
                if name not in keep and self._may_set(name):
                    os.removexattr(folder, name)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise


def _write_parts(file: int, content: Iterator[memoryview], parts: tuple[tuple[int, int], ...]) -> None:
    """Write the parts of a sparse file at their offsets, with holes between them."""
    piece = memoryview(b"")
    for start, length in parts:
        at, end = start, start + length
        while at < end:
            piece = piece or next(content)
            written = os.pwrite(file, piece[: end - at], at)
            piece, at = piece[written:], at + written


def _bounded(links: int, path: bytes) -> int:
    """Return the number of symbolic links on the way to a path.

    Raises:
        Unsafe: The number exceeds `_MAX_LINKS`.
    """
    if links > _MAX_LINKS:
        raise Unsafe(f"a layer has an entry below {shown(path)}: too many symbolic links") from None
    return links


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _name(path: bytes) -> bytes:
    return path[path.rfind(b"/") + 1 :]


def _status(folder: int, name: bytes) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _as_it_is(folder: int) -> _Folder:
    status = os.fstat(folder)
    return _Folder(stat.S_IMODE(status.st_mode), times=(status.st_atime_ns, status.st_mtime_ns))


def _mounted(path: bytes) -> Unsafe:
    return Unsafe(f"removal of {shown(path)} refused: a file system is mounted there; unmount it first")
