"""`RootfsWriter`: a directory that layers are written to, and nothing outside of it.

The kernel is never given a path with a slash in it: every name is looked up in a folder that is open, without following
it. Symbolic links on the way are followed by hand, as a process would whose root the target is. What somebody puts in
the place of a folder meanwhile therefore leads nowhere else (CVE-2018-15664).
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

#: In the root from before the first write until the tree is whole. No layer may have an entry of that name, in any
#: folder: `unpack` empties a directory that has one from an `unpack` before.
MARKER = b".distsdk-unpacking"

#: Symbolic links that may be followed on the way to one name, as on Linux.
_MAX_LINKS = 40
#: Folders that are kept open. macOS allows a process 256 files.
_MAX_OPEN = 128

#: Bytes of memory for paths whose real ones are remembered.
_MAX_REMEMBERED = 16 * 1024 * 1024
#: Bytes of the paths of all folders that are made: they get their times in the end. Links multiply them.
_MAX_PATHS = 64 * 1024 * 1024

# What is missing on Windows is not used there: `RootfsWriter` refuses before.
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_OPEN = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC
#: To look up names in a folder takes no right to read it; only Linux can say so.
_ENTER = _OPEN | getattr(os, "O_PATH", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _CLOEXEC

#: What the system says where a file system has no extended attributes, not this one, not for this user, or no room for
#: it (ext4 keeps them in one block, whatever is free); or where there is no /proc.
_NO_XATTR = {
    *(errno.ENOENT, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.E2BIG, errno.ERANGE),
    *(errno.ENOSPC, errno.EDQUOT),
}
#: What overlayfs keeps for itself: a tree that is mounted as one of its layers would have them obeyed.
_NEVER_SET = (b"user.overlay.", b"trusted.overlay.")


class _Folder(NamedTuple):
    """What a folder is to be in the end: entries that come after it change its time."""

    mode: int
    uid: int = -1  # leave it as it is
    gid: int = -1
    times: tuple[int, int] | None = None
    xattrs: Mapping[bytes, bytes] | None = None
    merged: bool = False  # with one that was there, and may have attributes of its own


class _Followed(NamedTuple):
    """Among names to be looked up: the place where the target of a symbolic link ends.

    Attributes:
        link: The real path of the link.
        before: Links that were followed before it.
    """

    link: bytes
    before: int


@define(eq=False)
class _Level:
    """A folder on the way down, when a tree is removed."""

    path: bytes
    identity: tuple[int, int]
    folders: list[bytes]
    kept: bool  # something in it stays


class RootfsWriter:
    """An open directory that entries of layers are written to.

    Attributes:
        owners: Whether owners are set: only the superuser may.
        removed: Whiteouts so far.
        devices_skipped: Device nodes that were not made.
        xattrs_refused: Extended attributes that were not set.
    """

    def __init__(self, root: int, *, devices: bool) -> None:
        """Take over an open directory.

        Args:
            root: Its descriptor; `close` closes it.
            devices: Make device nodes.
        """
        self.owners = os.geteuid() == 0
        self.removed = self.devices_skipped = self.xattrs_refused = 0
        self._root = root
        self._devices = devices
        self._marker: bytes | None = None  # what it will say
        self._open = {b"": root}  # by the real path: one without symbolic links
        self._real = {b"": b""}  # by the path that an entry names
        self._links: dict[bytes, tuple[bytes, int]] = {}  # of links to folders, and how many they lead through
        self._remembered = 0  # bytes of memory for them
        self._folders: dict[bytes, _Folder] = {}
        self._paths = 0  # bytes of the paths in there
        self._stale = False  # paths may lead elsewhere now
        #: Hashes of the real paths of what the layer has, which its own whiteouts leave alone. They are keyed, so that
        #: nobody finds two paths with the same one; by chance a file of a lower layer would stay.
        self._written: set[int] = set()
        #: Likewise, the folders in which the layer's whiteouts find nothing any more: all in them is its own.
        self._cleared: set[int] = set()
        self._lookups = Lookups()

    def close(self) -> None:
        """Let go of the directory."""
        for folder in self._open.values():
            os.close(folder)
        self._open = {}

    def mark(self, text: bytes) -> None:
        """Have the marker written before anything else is: from then on the tree is not whole."""
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
        """Return what the marker says; None where there is none."""
        try:
            marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | _CLOEXEC, dir_fd=self._root)
        except FileNotFoundError:
            return None
        except OSError:
            return b""  # something else of that name
        try:
            return os.read(marker, 64)
        finally:
            os.close(marker)

    def is_empty(self) -> bool:
        """Return whether there is nothing in the directory."""
        with os.scandir(self._root) as entries:
            return next(entries, None) is None

    def empty(self) -> None:
        """Remove all that is in the directory."""
        self._remove_below(self._root, b"", None)

    def next_layer(self) -> None:
        """Begin with a layer: what the one before wrote is lower now."""
        self._written.clear()
        self._cleared.clear()

    def finish(self) -> None:
        """Give folders their owners, modes, attributes and times, and take the marker away."""
        self._forget()
        root = self._folders.pop(b"", None)
        # What is below comes first: a mode may keep its owner from entering.
        for path in sorted(self._folders, reverse=True):
            self._lookups.allow(path)
            with suppress(FileNotFoundError, NotADirectoryError):  # it was replaced
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
        """Write an entry of a layer, or do what a whiteout says.

        Args:
            member: The entry.
            content: What is stored of it.

        Raises:
            Unsafe: Its name, or that of what it links to, leads elsewhere.
            MalformedDocument: It cannot be: it is below a file, or a hard link to something missing or a directory.
            OSError: It cannot be written; ``filename`` is its path.
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
            if not isinstance(error, DistError):  # which has a message of its own: the layer could not be read
                error.filename = os.fsdecode(member.path)
            raise

    @staticmethod
    def check(member: Member, role: Role, name: bytes) -> None:
        """Refuse an entry that no directory can have.

        Raises:
            Unsafe: It has the name of the marker, or is a hard link to it or to what is elsewhere, or a root that is no
                folder.
        """
        if role is not Role.ENTRY:
            return
        if member.kind is Kind.HARD_LINK and _name(inside(member.link)).lower() == MARKER:
            raise Unsafe(
                f"a layer's entry {shown(member.path)} is a hard link to {shown(member.link)}, which marks unfinished "
                "trees here"
            )
        if name.lower() == MARKER:
            raise Unsafe(f"a layer has an entry named {shown(member.path)}, which marks unfinished trees here")
        if not name and member.kind is not Kind.FOLDER:
            raise Unsafe("a layer has an entry for the root that is no folder")

    def _add(self, member: Member, content: Iterator[memoryview], folder_path: bytes, name: bytes) -> None:
        if not name:
            self._expect(b"", self._wanted(member, merged=True))
            return
        try:
            real, folder = self._enter(folder_path, make=True)
        except NotADirectoryError as error:
            message = f"a layer has an entry {shown(member.path)}, which is below something that is no folder"
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
            with suppress(FileNotFoundError):  # what it would have replaced
                self._remove(folder, path, None)
        self._written.add(hash(path))

    def _add_file(self, member: Member, content: Iterator[memoryview], folder: int, path: bytes) -> None:
        name = _name(path)
        try:
            file = os.open(name, _CREATE, 0o600, dir_fd=folder)
        except FileExistsError:
            self._remove(folder, path, None)  # never written into: it may have another name elsewhere
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
            os.fchmod(file, self._mode(member))  # after the owner, whose change takes setuid away
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
        self._expect(path, self._wanted(member, merged=merged))

    def _add_hard_link(self, member: Member, folder: int, path: bytes) -> None:
        source_path, _, source_name = inside(member.link).rpartition(b"/")
        self._lookups.allow(member.link)
        name = _name(path)
        if not source_name:  # the root
            raise linked_directory(member)

        def link() -> None:
            try:
                # Not followed: a hard link to a symbolic link is another name of that link.
                os.link(source_name, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            except PermissionError as error:
                if not stat.S_ISDIR(_status(source, source_name).st_mode):
                    raise
                raise linked_directory(member) from error

        folder = os.dup(folder)  # the way to the other one may close it
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
        """Make something new; what is there under its name is removed."""
        try:
            return make()
        except FileExistsError:
            self._remove(folder, path, None)
            return make()

    def _finish_special(self, member: Member, folder: int, name: bytes) -> None:
        """Give owner, mode and time to what must not be opened."""
        if self.owners:
            os.chown(name, member.uid, member.gid, dir_fd=folder, follow_symlinks=False)
        if member.kind is not Kind.SYMLINK:
            os.chmod(name, self._mode(member), dir_fd=folder, follow_symlinks=False)
        if member.xattrs:
            # They are set by a path only, or on what is open. This one leads into the open folder, and no farther.
            self._set_xattrs(b"/proc/self/fd/%d/%b" % (folder, name), member.xattrs)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=folder, follow_symlinks=False)

    # Folders

    def _mode(self, member: Member) -> int:
        """Return the mode that is set: what would run as its owner would run as whoever unpacks it."""
        return member.mode if self.owners else member.mode & 0o1777

    def _wanted(self, member: Member, *, merged: bool) -> _Folder:
        uid, gid = (member.uid, member.gid) if self.owners else (-1, -1)
        return _Folder(self._mode(member), uid, gid, (member.mtime, member.mtime), member.xattrs, merged)

    def _finish_folder(self, folder: int, wanted: _Folder) -> None:
        if wanted.uid >= 0:
            os.fchown(folder, wanted.uid, wanted.gid)
        if wanted.uid >= 0 or stat.S_IMODE(os.fstat(folder).st_mode) != wanted.mode:
            os.fchmod(folder, wanted.mode)
        if wanted.merged:
            self._clear_xattrs(folder, wanted.xattrs or {})
        if wanted.xattrs:
            self._set_xattrs(folder, wanted.xattrs)
        if wanted.times:
            try:
                os.utime(folder, ns=wanted.times)
            except PermissionError:
                if wanted.xattrs is not None:  # otherwise it was only written to, and is somebody else's
                    raise

    def _enter(self, path: bytes, *, make: bool) -> tuple[bytes, int]:
        """Return the real path of a folder, and an open descriptor of it that stays open during this entry.

        Args:
            path: As `inside` gives it; symbolic links in it lead to places inside the root.
            make: Make folders that are missing.

        Raises:
            FileNotFoundError: One is missing, and ``make`` is false.
            NotADirectoryError: Something on the way is no folder.
            Unsafe: There are too many symbolic links on the way.
            LimitExceeded: Symbolic links have led through too many folders.
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
        """Forget where paths lead if they, and one more, take too much memory."""
        self._remembered += len(path) + len(real) + 200
        if self._remembered > _MAX_REMEMBERED:
            self._forget_paths()

    def _forget_paths(self) -> None:
        self._real.clear()
        self._real[b""] = b""
        self._links.clear()
        self._remembered = 0

    def _nearest(self, path: bytes) -> tuple[bytes, list[bytes]]:
        """Return the real path of the nearest folder above that is open, and the names that lead on, last one first."""
        above = path
        while above:
            above = above.rpartition(b"/")[0]
            real = self._real.get(above)
            if real is not None and real in self._open:
                return real, path[len(above) :].split(b"/")[::-1]
        return b"", path.split(b"/")[::-1]

    def _open_folder(self, folder: int, name: bytes, path: bytes, *, make: bool) -> int:
        """Open a folder in a folder, and keep it open.

        Raises:
            NotADirectoryError: It is something else, perhaps a symbolic link.
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
            if error.errno == errno.ELOOP:  # what some systems say about a symbolic link
                raise NotADirectoryError(*error.args) from error
            raise
        self._open[path] = found
        if not self.owners:
            self._let_in(folder, name, path, found)
        if len(self._open) > _MAX_OPEN:
            self._let_go()
        return found

    def _let_in(self, folder: int, name: bytes, path: bytes, found: int) -> None:
        """Let its owner write to a folder until the end, where its mode does not."""
        mode = stat.S_IMODE(os.fstat(found).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            if path not in self._folders:
                self._expect(path, _as_it_is(found))
            os.chmod(name, mode | stat.S_IRWXU, dir_fd=folder, follow_symlinks=False)

    def _open_again(self, path: bytes) -> int:
        """Return a folder by its real path, opened again if it was let go; it will be the last one to be let go."""
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
        """Open a folder by its real path, to be closed by the caller.

        Raises:
            FileNotFoundError, NotADirectoryError: It is not there any more.
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
        """Return what a symbolic link points to; None if it is none."""
        try:
            return os.readlink(name, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def _let_go(self) -> None:
        """Close the folders that were used least recently, and keep the rest open."""
        for path in list(self._open)[1 : len(self._open) // 2 + 1]:  # the root is the first
            os.close(self._open.pop(path))

    def _forget(self) -> None:
        """Take nothing for granted any more: a folder or a symbolic link is gone."""
        for path in list(self._open)[1:]:
            os.close(self._open.pop(path))
        self._forget_paths()
        self._stale = False

    def _expect(self, path: bytes, folder: _Folder) -> None:
        """Take note of what a folder is to be in the end."""
        if path not in self._folders:
            self._paths += len(path)
            if self._paths > _MAX_PATHS:
                message = f"the names of a layer's folders are more than the limit of {human_size(_MAX_PATHS)}"
                raise LimitExceeded(message, limit=_MAX_PATHS)
        self._folders[path] = folder

    # Removing

    def _white_out(self, folder_path: bytes, name: bytes) -> None:
        """Remove what lower layers have: all in a folder where there is no name."""
        try:
            real, folder = self._enter(folder_path, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return  # umoci writes whiteouts of all that was in a folder in whose place a file is now
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
        """Remove what is in a folder under a name, whatever it is.

        Args:
            folder: The folder.
            path: Its real path and the name.
            keep: What stays, by `hash` of its path.

        Raises:
            FileNotFoundError: There is nothing.
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
        """Remove all that is in a folder."""
        opened = os.open(b".", _OPEN, dir_fd=folder)
        try:
            for name in self._sweep(opened, path, keep).folders:
                self._remove_tree(opened, _join(path, name), keep)
        finally:
            os.close(opened)

    def _remove_tree(self, folder: int, path: bytes, keep: set[int] | None) -> None:
        """Remove a folder and all below it; a folder in which something stays stays too.

        One that was cleared for the same layer is not swept again: whiteouts cost no more than what they remove, and
        each folder once.

        However deep it is, two descriptors are open and nothing recurses. The way up is held against the way down.

        Raises:
            Unsafe: Another file system is mounted in there, or somebody moves its folders about meanwhile.
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
                        raise Unsafe(f"{shown(level.path)} was moved away while it was removed: leave the tree alone")
                    levels[-1].kept |= level.kept
                if not level.kept:
                    os.rmdir(_name(level.path), dir_fd=at if levels else folder)
                    self._stale = True
        finally:
            os.close(at)

    def _remove_if_empty(self, folder: int, path: bytes) -> bool:
        """Remove a folder unless something is in it; return whether it is gone."""
        try:
            os.rmdir(_name(path), dir_fd=folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        self._stale = True
        return True

    def _sweep(self, folder: int, path: bytes, keep: set[int] | None) -> _Level:
        """Remove all but folders from a folder, and return what is left to do there."""
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
                self._let_in(folder, name, path, entered)
            finally:
                os.close(entered)
        return os.open(name, _OPEN, dir_fd=folder)

    # Extended attributes

    def _may_set(self, name: bytes) -> bool:
        """Return whether an attribute is one that a layer may bring, and this user set.

        Not `security.selinux` and the like: those are the machine's own.
        """
        if name.startswith(_NEVER_SET) or not hasattr(os, "setxattr"):
            return False
        if name.startswith((b"user.", b"system.posix_acl_")):
            return True
        return self.owners and (name == b"security.capability" or name.startswith(b"trusted."))

    def _set_xattrs(self, file: int | bytes, xattrs: Mapping[bytes, bytes]) -> None:
        """Set attributes of an open file, or of what is at a path; if that is a symbolic link, its own."""
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

    def _clear_xattrs(self, folder: int, wanted: Mapping[bytes, bytes]) -> None:
        """Take away what a folder has of the kind that layers bring, and its new entry has not."""
        if not hasattr(os, "listxattr"):
            return
        try:
            for name in map(os.fsencode, os.listxattr(folder)):
                if name not in wanted and self._may_set(name):
                    os.removexattr(folder, name)
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise


def _write_parts(file: int, content: Iterator[memoryview], parts: tuple[tuple[int, int], ...]) -> None:
    """Write the parts of a sparse file to where they belong; what is between them stays a hole."""
    piece = memoryview(b"")
    for start, length in parts:
        at, end = start, start + length
        while at < end:
            piece = piece or next(content)
            written = os.pwrite(file, piece[: end - at], at)
            piece, at = piece[written:], at + written


def _bounded(links: int, path: bytes) -> int:
    """Return a number of symbolic links on the way to a path.

    Raises:
        Unsafe: It is too large.
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
    return Unsafe(f"{shown(path)} would be removed, and another file system is mounted there: unmount it first")
