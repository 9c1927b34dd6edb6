"""Commands that read the files of an image, and that unpack it."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shlex
import stat
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

import distsdk
from distsdk._text import counted, human_size, printable
from distsdk.cli.app import (
    add_near_names,
    connect,
    fitted_digest,
    main,
    names_object,
    option,
    read_reference,
    say,
    shows_progress,
    terminal_width,
    write,
    write_line,
)
from distsdk.errors import NotFound
from distsdk.spec.media_types import DEFAULT_ACCEPT, INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.analysis.diff import Diff, What
    from distsdk.analysis.packages import Package
    from distsdk.images.image import Image, Layer
    from distsdk.layers.merged import Entry
    from distsdk.remotes.remote import Remote
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.documents import HistoryEntry
    from distsdk.spec.reference import Reference

_platform = click.option(
    "--platform",
    metavar="OS/ARCH",
    help="Select the image of an index (default: linux on this machine's architecture).",
)

#: By the name of the kind; those that `stat.filemode` knows.
_TYPES = {
    "FILE": stat.S_IFREG,
    "FOLDER": stat.S_IFDIR,
    "SYMLINK": stat.S_IFLNK,
    "FIFO": stat.S_IFIFO,
    "CHARACTER_DEVICE": stat.S_IFCHR,
    "BLOCK_DEVICE": stat.S_IFBLK,
}


def _image(reference: Reference, platform: str | None, remote: Remote | None = None) -> Image:
    store = distsdk.Store(option("store"))
    return distsdk.image(
        reference, platform=platform, remote=remote or connect(reference.locator), store=store, progress=_reading()
    )


@contextlib.contextmanager
def _near_files(image: Image, path: str) -> Iterator[None]:
    """Note what is near a missing path in its directory: by then all layers are known, and nothing is requested."""
    try:
        yield
    except NotFound as error:
        directory, _, name = path.rstrip("/").rpartition("/")
        with contextlib.suppress(distsdk.DistError):
            names = [entry.name for entry in image.ls(directory)]
            if name not in names:  # a directory where a file is expected
                add_near_names(error, "names", name, names)
        raise


def _reading() -> bool | Callable[[Layer, int], None]:
    """Return what shows that a whole layer is read: a bar on a terminal, else one line before it is."""
    quiet = option("quiet")  # layers are read in threads, which have no context
    if shows_progress():
        return True

    def tell(layer: Layer, count: int) -> None:
        if not count and not quiet:
            say(f"reading all of layer {layer.number}, {human_size(layer.size)}: it has no table of contents")

    return tell


@main.command(example="distsdk inspect redis:7")
@click.argument("ref")
@_platform
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: manifest and config.")
def inspect(ref: str, platform: str | None, as_json: bool) -> None:
    """Show platform, command and layers of an image.

    If the image was pulled, this command and the others that look inside an image read it from the store.
    """
    reference = read_reference(ref)
    remote = connect(reference.locator)
    image = _image(reference, platform, remote)
    index = _index(image, remote)
    if as_json:
        fields = {
            "name": str(image.reference),
            "index": index and str(index),
            "digest": str(image.digest),
            "size": image.download_size,
        }
        write_line(json.dumps({**fields, "manifest": image.manifest.fields, "config": image.config.fields}))
        return
    config = image.config
    for name, value in (
        ("name", str(image.reference)),
        ("index", str(index or "")),
        ("digest", str(image.digest)),
        ("platform", str(image.platform)),
        ("created", config.created),
        ("command", shlex.join((*config.entrypoint, *config.cmd))),
        ("user", config.user),
        ("size", human_size(image.download_size)),
    ):
        if value:
            write_line(f"{name:<9}{value}")
    width = terminal_width()
    for layer in image.layers:
        digest = fitted_digest(layer.descriptor.digest)
        made_by = "" if layer.history is None else " ".join(layer.history.created_by.split())
        line = printable(f"{f'layer {layer.number}':<9}{digest}  {human_size(layer.size):>10}  {made_by}".rstrip())
        write_line(line if not width or len(line) <= width else f"{line[: width - 1]}…")


def _index(image: Image, remote: Remote) -> Digest | None:
    """Return the digest of the index that an image was chosen from, None where its name names the image itself.

    Where the image is not in the store, the index is requested once more.
    """
    from distsdk.spec.documents import Index
    from distsdk.transfer.pull import name_in_store

    reference, store = image.reference, distsdk.Store(option("store"))
    stored = store.images().get(name_in_store(reference))
    if stored is None:
        hints = (distsdk.Hint("mediatype", kind) for kind in DEFAULT_ACCEPT)
        named = remote.fetch(reference.object, *hints)
    else:
        named = store.blob(stored.digest, media_type=stored.media_type)
    if named.media_type not in INDEXES:
        return None
    # The tag may have moved since the image was read.
    is_child = any(child.digest == image.digest for child in Index.parse(named.read(), named.media_type).manifests)
    return named.digest if is_child else None


@main.command(example="distsdk ls -l redis:7 /etc")
@click.argument("ref")
@click.argument("path", default="/")
@_platform
@click.option("-l", "--long", "as_long", is_flag=True, help="Show type, mode, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="List all directories below PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def ls(*, ref: str, path: str, platform: str | None, as_long: bool, recursive: bool, as_json: bool) -> None:
    """List the files of an image, without a pull.

    A layer with a table of contents (eStargz, zstd:chunked) costs a small request. Any other layer is read once, and
    its list of files is cached. The tags of a repository are listed by distsdk tags.
    """
    if path == "/" and not names_object(ref) and not option("quiet"):
        say(f"no tag given, listing the files of {read_reference(ref).familiar}; to list tags: distsdk tags {ref}")
    image = _image(read_reference(ref), platform)
    with _near_files(image, path):
        entries = image.walk(path) if recursive else iter(image.ls(path))
        first = next(entries, None)
    for entry in () if first is None else itertools.chain((first,), entries):
        if as_json:
            write_line(json.dumps(_fields(entry)))
        elif as_long:
            write_line(_long(entry, entry.path if recursive else entry.name))
        else:
            write_line(entry.path if recursive else entry.name)


def _long(entry: Entry, name: str) -> str:
    member = entry.member
    owner, group = (
        n.decode("utf-8", "replace") or str(i) for n, i in ((member.uname, member.uid), (member.gname, member.gid))
    )
    size = "{},{}".format(*member.device) if member.kind.name.endswith("_DEVICE") else str(member.size)
    when = _time(member.mtime)
    shown = "" if when is None else when.strftime("%Y-%m-%d %H:%M")
    link = f" -> {member.link.decode('utf-8', 'backslashreplace')}" if member.link else ""
    return f"{_mode(entry)} {owner:<8} {group:<8} {size:>10} {shown:>16} {name}{link}"


def _mode(entry: Entry) -> str:
    return stat.filemode(_TYPES.get(entry.member.kind.name, stat.S_IFREG) | entry.member.mode)


def _time(nanoseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _json_path(path: str) -> str:
    """Return a path as text that can be encoded: bytes that are no UTF-8 are shown escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _fields(entry: Entry) -> dict[str, Any]:
    member = entry.member
    when = _time(member.mtime)
    fields: dict[str, Any] = {
        "path": _json_path(entry.path),
        "type": member.kind.name.lower().replace("_", "-"),
        "size": member.size,
        "mode": f"{member.mode:04o}",
        "uid": member.uid,
        "gid": member.gid,
        "mtime": None if when is None else when.isoformat(),
        "layer": entry.layer,
    }
    if member.link:
        fields["link"] = member.link.decode("utf-8", "backslashreplace")
    return fields


@main.command(example="distsdk cat redis:7 /etc/os-release")
@click.argument("ref")
@click.argument("path")
@_platform
def cat(ref: str, path: str, platform: str | None) -> None:
    """Write a file of an image to stdout, without a pull."""
    image = _image(read_reference(ref), platform)
    with _near_files(image, path):
        opened = image.open(path)
    with opened as file:
        while data := file.read(1024 * 1024):
            write(data)


@main.command(example="distsdk du redis:7 /usr")
@click.argument("ref")
@click.argument("path", default="/")
@_platform
@click.option("-a", "--all", "all_folders", is_flag=True, help="Show all directories below PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: bytes by directory and by layer.")
def du(*, ref: str, path: str, platform: str | None, all_folders: bool, as_json: bool) -> None:
    """Show the size of each directory and layer of an image.

    The size of a layer includes the files that later layers replace or delete, and shows them as hidden.
    """
    from distsdk.analysis.usage import usage

    image = _image(read_reference(ref), platform)
    with _near_files(image, path):
        at = image.stat(path)
    found = usage(image)
    below = at.path.rstrip("/") + "/"
    folders = {
        name: size
        for name, size in sorted(found.folders.items())
        if name == at.path or (name.startswith(below) and (all_folders or "/" not in name[len(below) :]))
    } or {at.path: at.member.size}
    if as_json:
        layers = [
            {
                "digest": str(layer.layer.descriptor.digest),
                "packed": layer.packed,
                "content": layer.content,
                "files": layer.files,
                "wasted": layer.wasted,
            }
            for layer in found.layers
        ]
        write_line(json.dumps({"content": found.content, "wasted": found.wasted, "folders": folders, "layers": layers}))
        return
    for name, size in folders.items():
        write_line(f"{human_size(size):>12}  {name}")
    for layer in found.layers:
        write_line(
            f"{human_size(layer.content):>12}  layer {layer.layer.number}: {counted(layer.files, 'file')}, "
            f"{human_size(layer.packed)} packed, {human_size(layer.wasted)} hidden"
        )


@main.command(example="distsdk diff redis:7.2 redis:7.4")
@click.argument("ref")
@click.argument("other")
@_platform
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(*, ref: str, other: str, platform: str | None, as_json: bool) -> None:
    """Compare two images: settings, layers, packages, files.

    Files of equal size are compared by the digests of their tables of contents, or by their bytes where there is no
    table. Times are not compared.
    """
    quiet = option("quiet")

    def tell(done: int, total: int) -> None:
        if not done and not quiet:
            say(f"comparing the content of files: {human_size(total)} to be read")

    found = _image(read_reference(ref), platform).diff(_image(read_reference(other), platform), on_progress=tell)
    if as_json:
        write_line(json.dumps(_diff_fields(found)))
        return
    write_line(f"- {found.before}")
    write_line(f"+ {found.after}")
    for setting in found.settings:
        _write_change("setting", setting.what, setting.name, _text(setting.before), _text(setting.after))
    for step in found.history.before:
        _write_change("step", "removed", _one_line(step))
    for step in found.history.after:
        _write_change("step", "added", _one_line(step))
    for layer in found.layers.before:
        _write_change("layer", "removed", str(layer.digest), human_size(layer.size))
    for layer in found.layers.after:
        _write_change("layer", "added", str(layer.digest), "", human_size(layer.size))
    for package in found.packages:
        versions = ("" if side is None else side.version for side in (package.before, package.after))
        _write_change("package", package.what, package.package.name, *versions)
    for file in found.files:
        sides = zip((file.before, file.after), file.sizes, strict=True)
        sizes = ("" if side is None else human_size(size) for side, size in sides)
        _write_change("file", file.what, file.path, *sizes, how=", ".join(file.how))


_MARKS = {"added": "+", "removed": "-", "changed": "~"}


def _write_change(noun: str, what: What, name: str, before: str = "", after: str = "", *, how: str = "") -> None:
    values = f"{before} -> {after}" if what == "changed" and before != after else after or before
    write_line("  ".join(part for part in (f"{_MARKS[what]} {noun:<7}", name, values, how and f"({how})") if part))


def _text(value: object) -> str:
    """Return a value of a config: a text as it is, anything else as JSON has it, and nothing for what is not there."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_line(step: HistoryEntry) -> str:
    return " ".join((step.created_by or step.comment).split())


def _diff_fields(found: Diff) -> dict[str, Any]:
    def package(side: Package | None) -> dict[str, str] | None:
        return None if side is None else {"version": side.version, "architecture": side.architecture}

    def entry(side: Entry | None) -> dict[str, Any] | None:
        return None if side is None else {name: v for name, v in _fields(side).items() if name != "path"}

    def step(side: HistoryEntry) -> dict[str, Any]:
        return {"created": side.created, "created_by": side.created_by, "empty_layer": side.empty_layer}

    def layer(side: Descriptor) -> dict[str, Any]:
        return {"digest": str(side.digest), "size": side.size}

    return {
        "before": str(found.before),
        "after": str(found.after),
        "settings": [{"name": c.name, "before": c.before, "after": c.after} for c in found.settings],
        "history": {
            "shared": found.history.shared,
            "before": [step(side) for side in found.history.before],
            "after": [step(side) for side in found.history.after],
        },
        "layers": {
            "shared": found.layers.shared,
            "before": [layer(side) for side in found.layers.before],
            "after": [layer(side) for side in found.layers.after],
        },
        "packages": [
            {
                "name": c.package.name,
                "manager": c.package.manager,
                "what": c.what,
                "before": package(c.before),
                "after": package(c.after),
            }
            for c in found.packages
        ],
        "files": [
            {
                "path": _json_path(c.path),
                "what": c.what,
                "how": list(c.how),
                "before": entry(c.before),
                "after": entry(c.after),
            }
            for c in found.files
        ],
    }


@main.command(example="distsdk unpack redis:7 rootfs")
@click.argument("ref")
@click.argument("directory", type=click.Path(file_okay=False))
@_platform
@click.option("--devices", is_flag=True, help="Make device nodes.")
@click.option("--dry-run", is_flag=True, help="Print the names; write nothing.")
def unpack(*, ref: str, directory: str, platform: str | None, devices: bool, dry_run: bool) -> None:
    """Unpack the files of an image into a new DIRECTORY.

    Nothing outside DIRECTORY is changed. Only the superuser sets owners and setuid bits. An unpack that was
    interrupted leaves the file .distsdk-unpacking in DIRECTORY; the next one starts over.
    """
    more: dict[str, Any] = {"on_progress": _write_name} if dry_run else {}
    image = _image(read_reference(ref), platform)
    image.unpack(directory, devices=devices, dry_run=dry_run, progress=not dry_run and shows_progress(), **more)


@main.command(example="distsdk apply rootfs < layer.tar.gz")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--diff-id", metavar="DIGEST", help="Require this digest of the uncompressed layer.")
@click.option("--devices", is_flag=True, help="Make device nodes.")
@click.option("--dry-run", is_flag=True, help="Print the names; write nothing.")
def apply(*, directory: str, diff_id: str | None, devices: bool, dry_run: bool) -> None:
    """Apply the layer on stdin to DIRECTORY.

    The layer is a tar archive, plain or compressed with gzip or zstd; its whiteouts delete files. Nothing outside
    DIRECTORY is changed.
    """
    if sys.stdin is None:
        raise click.UsageError("the layer is read from stdin, which is closed")
    expected = None if diff_id is None else distsdk.Digest.parse(diff_id)
    with io.FileIO(sys.stdin.fileno(), closefd=False) as stdin:
        more: dict[str, Any] = {"on_progress": _write_name} if dry_run else {}
        progress = not dry_run and shows_progress()
        distsdk.apply(directory, stdin, diff_id=expected, devices=devices, dry_run=dry_run, progress=progress, **more)


def _write_name(member: Any) -> None:  # noqa: ANN401 - a Member
    write_line(member.path.decode("utf-8", "backslashreplace"))
