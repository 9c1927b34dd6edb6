"""The packages of an image, read from the database that its package manager keeps: dpkg, apk, rpm."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._repr import Displayed, FixedRows
from distsdk.errors import LimitExceeded, MalformedDocument, NotFound
from distsdk.layers.member import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.images.image import Image

#: Packages that an image has at most. A Debian archive as a whole has fewer.
MAX_PACKAGES = 100_000

#: Bytes of a database. Fedora's takes some 20 kB a package.
MAX_DATABASE = 512 * 1024 * 1024

#: Bytes of what one package says of itself, where each has a file or a row of its own.
_MAX_ENTRY = 64 * 1024 * 1024

_DPKG = "/var/lib/dpkg/status"
#: Distroless images have a file for each package, and others beside it.
_DPKG_FOLDER = "/var/lib/dpkg/status.d"
_NO_PACKAGE = (".list", ".md5sums")
#: The second one since Alpine merged ``/lib`` into ``/usr``.
_APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_FIELDS = frozenset({b"Package", b"Status", b"Version", b"Architecture", b"P", b"V", b"A"})
_RPM_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")

_log = logging.getLogger(__name__)


@frozen
class Package(Displayed):
    """A package that is installed.

    Attributes:
        name: ``openssl``.
        version: As its manager writes it, ``1:2.38.1-5+deb12u3``; of rpm ``[epoch:]version-release``.
        architecture: ``amd64``, ``x86_64``, ``noarch``; empty where it has none.
        manager: ``dpkg``, ``apk`` or ``rpm``.
    """

    name: str
    version: str
    architecture: str
    manager: str


def read_packages(image: Image) -> tuple[Package, ...]:
    """Return the packages of an image, sorted by manager, name, architecture and version.

    Raises:
        MalformedDocument: A database is damaged.
        LimitExceeded: There are more than `MAX_PACKAGES`, or a database is larger than `MAX_DATABASE`.
        DistError: As `Image.ls`.
    """
    image.ls()  # from here on what is not found is not there: no layer has to be asked for any more
    found: set[Package] = set()
    for read in (_dpkg, _apk, _rpm):
        for package in read(image):
            found.add(package)
            if len(found) > MAX_PACKAGES:
                raise LimitExceeded(f"the image has more than {MAX_PACKAGES:,} packages", limit=MAX_PACKAGES)
    return FixedRows(sorted(found, key=lambda p: (p.manager, p.name, p.architecture, p.version)))


def _is_file(image: Image, path: str) -> bool:
    with contextlib.suppress(NotFound, LimitExceeded):  # symbolic links that lead in a circle
        return image.stat(path).member.kind is Kind.FILE
    return False


# dpkg and apk


def _dpkg(image: Image) -> Iterator[Package]:
    paths = [_DPKG] if _is_file(image, _DPKG) else []
    with contextlib.suppress(NotFound, LimitExceeded):
        paths += [entry.path for entry in image.ls(_DPKG_FOLDER) if not entry.name.endswith(_NO_PACKAGE)]
    for path in paths:
        if not _is_file(image, path):
            continue
        for fields in _paragraphs(image.read_bytes(path, limit=_MAX_ENTRY)):
            # https://manpages.debian.org/bookworm/dpkg/dpkg.1.en.html#Package_states; distroless has no such field.
            state = fields.get(b"Status", b"").split()[-1:]
            if b"Package" in fields and state not in ([b"not-installed"], [b"config-files"]):
                yield _package(fields, b"Package", b"Version", b"Architecture", "dpkg")


def _apk(image: Image) -> Iterator[Package]:
    # https://wiki.alpinelinux.org/wiki/Apk_spec#Installed_Database_V2
    path = next((path for path in _APK if _is_file(image, path)), None)
    if path is not None:
        for fields in _paragraphs(image.read_bytes(path, limit=_MAX_ENTRY)):
            if b"P" in fields:
                yield _package(fields, b"P", b"V", b"A", "apk")


def _paragraphs(data: bytes) -> Iterator[dict[bytes, bytes]]:
    """Yield of each paragraph the fields that count; lines that continue one begin with a space."""
    fields: dict[bytes, bytes] = {}
    for line in io.BytesIO(data):
        if not line.strip():
            yield fields
            fields = {}
        else:
            name, _, value = line.partition(b":")
            if name in _FIELDS:
                fields[name] = value.strip()
    yield fields


def _package(fields: dict[bytes, bytes], name: bytes, version: bytes, architecture: bytes, manager: str) -> Package:
    return Package(_text(fields.get(name)), _text(fields.get(version)), _text(fields.get(architecture)), manager)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


# rpm

# https://github.com/rpm-software-management/rpm/blob/rpm-4.20.0-release/include/rpm/rpmtag.h
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
_INT32, _STRING = 4, 6


def _rpm(image: Image) -> Iterator[Package]:
    for folder in _RPM_FOLDERS:
        path = f"{folder}/rpmdb.sqlite"
        if _is_file(image, path):
            for number, header in enumerate(_rpm_headers(image, path)):
                yield _rpm_package(header, f"entry {number} of {path}")
            return
    for folder in _RPM_FOLDERS:
        for name in ("Packages", "Packages.db"):
            if _is_file(image, f"{folder}/{name}"):
                _log.warning(
                    "the packages in %s/%s are left out: of rpm's databases only the one in SQLite is read",
                    folder,
                    name,
                )
                return


def _rpm_headers(image: Image, path: str) -> Iterator[bytes]:
    """Yield the headers in rpm's database, of which a copy is made since SQLite reads files.

    It may be anybody's: nothing of its schema is run, and no more is read than the file can hold.
    """
    import sqlite3

    with TemporaryDirectory(prefix="distsdk-") as folder:
        copy = Path(folder, "rpmdb.sqlite")
        size = _copy(image, path, copy)
        if _is_file(image, f"{path}-wal"):  # what was written last may not be in the database itself
            size += _copy(image, f"{path}-wal", copy.with_name("rpmdb.sqlite-wal"))
        try:
            with contextlib.closing(sqlite3.connect(copy)) as database:
                database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_ENTRY)
                database.setlimit(sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 0)  # of columns that are computed
                database.execute("PRAGMA trusted_schema = OFF")
                database.set_authorizer(_reads_packages)
                for (header,) in database.execute("SELECT blob FROM Packages"):
                    if not isinstance(header, bytes):
                        raise MalformedDocument(f"{path} is no database of rpm: it has a row that is no header")
                    size -= len(header)
                    if size < 0:
                        raise MalformedDocument(f"{path} is damaged: its rows have more bytes than it")
                    yield header
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a name in it is no text
            raise MalformedDocument(f"{path} is no database of rpm that can be read: {error}") from error


def _reads_packages(action: int, table: str | None, _column: str | None, _where: str | None, _by: str | None) -> int:
    """Let SQLite read one table, and no view, function or trigger in its name."""
    import sqlite3

    if action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and table == "Packages"):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _copy(image: Image, path: str, target: Path) -> int:
    with image.open(path) as source, target.open("wb") as file:
        if source.member.size > MAX_DATABASE:
            message = f"{path} is larger than the limit of {MAX_DATABASE} bytes for a database of packages"
            raise LimitExceeded(message, limit=MAX_DATABASE)
        while data := source.read(1024 * 1024):
            file.write(data)
    return source.member.size


def _rpm_package(header: bytes, where: str) -> Package:
    """Return the package that a header describes.

    https://github.com/rpm-software-management/rpm/blob/rpm-4.20.0-release/docs/manual/hregions.md; a database has it
    without the eight bytes in front.
    """
    found: dict[int, bytes] = {}
    try:
        entries, _ = struct.unpack_from(">II", header)
        begin = 8 + 16 * entries
        for number in range(entries):
            tag, kind, offset, _ = struct.unpack_from(">IIII", header, 8 + 16 * number)
            if tag in found:
                continue
            if (tag, kind) == (_EPOCH, _INT32):
                found[tag] = str(struct.unpack_from(">I", header, begin + offset)[0]).encode()
            elif kind == _STRING and tag in {_NAME, _VERSION, _RELEASE, _ARCHITECTURE}:
                found[tag] = header[begin + offset : header.index(b"\0", begin + offset)]
    except (struct.error, ValueError) as error:  # no such bytes, or no end of a text
        raise _damaged(where) from error
    if not found.get(_NAME):
        raise _damaged(where)
    version = f"{_text(found.get(_VERSION))}-{_text(found.get(_RELEASE))}"
    epoch = _text(found.get(_EPOCH))
    return Package(
        _text(found[_NAME]), f"{epoch}:{version}" if epoch else version, _text(found.get(_ARCHITECTURE)), "rpm"
    )


def _damaged(where: str) -> MalformedDocument:
    return MalformedDocument(f"{where} is damaged: it is no header of a package")
