"""Layers that are made up, and folders that are looked at."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from distsdk.layers.compression import DEFAULT_LIMITS, LayerLimits
from distsdk.layers.merged import Overlay
from distsdk.layers.tar import index_tar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distsdk.layers.layer import MemberFile
    from distsdk.layers.member import Member


KINDS = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
}


def _entry(name: str, kind: str = "file", /, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:  # noqa: ANN401 - a field each
    info = tarfile.TarInfo(name)
    data: bytes = fields.pop("data", b"")
    info.type, info.size = KINDS[kind], len(data)
    info.mode = 0o755 if kind == "folder" else 0o644
    info.mtime = 1_600_000_000
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in fields.pop("xattrs", {}).items()}
    for field, value in {"linkname": fields.pop("to", ""), **fields}.items():
        setattr(info, field, value)
    return info, data


def _layer(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class _Members:
    """A layer for the merged tree, whose files are not opened."""

    def __init__(self, packed: bytes) -> None:
        self.members = index_tar([packed])[0]

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        raise NotImplementedError


def _merged(*layers: bytes, limits: LayerLimits = DEFAULT_LIMITS) -> Overlay:
    return Overlay([_Members(packed) for packed in layers], limits)


def _seen(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(root))
        content: object = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir():
            content = sorted(child.name for child in path.iterdir())
        xattrs: dict[str, bytes] = {}
        if hasattr(os, "listxattr"):
            names = os.listxattr(path, follow_symlinks=False)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in names}
        same = first.setdefault((status.st_dev, status.st_ino), name)
        owner = (status.st_uid, status.st_gid)
        found[name] = (status.st_mode, owner, content, xattrs, same, status.st_mtime_ns, status.st_ctime_ns)
    return found


@pytest.fixture(scope="session")
def entry() -> Callable[..., tuple[tarfile.TarInfo, bytes]]:
    """Make an entry of a layer: ``entry("a/b", "symlink", to="c")``; ``data``, ``xattrs`` or fields of `TarInfo`."""
    return _entry


@pytest.fixture(scope="session")
def layer() -> Callable[..., bytes]:
    """Make a layer of entries."""
    return _layer


@pytest.fixture(scope="session")
def merged() -> Callable[..., Overlay]:
    """Put layers on each other in memory: ``merged(lower, upper)``."""
    return _merged


@pytest.fixture(scope="session")
def seen() -> Callable[[Path], dict[str, tuple[object, ...]]]:
    """Look at a folder: contents and metadata of all that is in it, down to when they last changed."""
    return _seen
