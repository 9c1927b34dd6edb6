"""HTML of values, for notebooks: of what is known already, so that a look costs no request and opens no blob.

It reads well where only the tags survive: JupyterLab drops ``<style>`` from a notebook it does not trust, GitHub drops
``style`` attributes too. Whatever comes in, it is at most `MAX_BYTES` long, and says what it leaves out.

Text that came from elsewhere passes through `_text`, which escapes it; the type `_Html` is what has been escaped.
"""

from __future__ import annotations

import json
import shlex
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from html import escape
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NewType, Protocol, TypeAlias, cast, runtime_checkable

from distsdk._repr import DisplayedAsText, facts
from distsdk._secrets import redact
from distsdk._text import counted, human_size, printable
from distsdk.spec.descriptor import REF_NAME, TITLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from distsdk.analysis.diff import Diff, FileChange, PackageChange, SettingChange
    from distsdk.analysis.usage import LayerUsage, Usage
    from distsdk.images.image import Layer
    from distsdk.layers.member import Member
    from distsdk.layers.merged import Entry
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.documents import HistoryEntry, ImageConfig, Index, Manifest
    from distsdk.spec.reference import Locator, Reference

#: Bytes of UTF-8 that any of these functions returns at most.
MAX_BYTES = 20_000

#: Rows of a table, and entries of a list.
_ROWS = 20

#: Characters of the longest bar, and what is left of one, from nothing to seven eighths.
_BAR = 12
_EIGHTHS = ("", *(chr(code) for code in range(0x258F, 0x2588, -1)))
# Bytes of HTML. They add up to less than MAX_BYTES with all fields of the largest value, the image config.
_FIELD = 160
_LONG_FIELD = 320
_TABLE = 3_900
_HISTORY_TABLE = 6_400
_DESCRIPTOR_TABLE = 9_000
_LAYER_TABLE = 7_600
_PAGE_TABLE = 16_000
_DIFF_TABLE = 2_200
_DIFF_PACKAGES = 3_600
_DIFF_FILES = 4_600

#: Annotations that say in a word what an entry of a list is: a file's name, a tag, an attestation.
#: https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys
_TELLING = (TITLE, REF_NAME, "vnd.docker.reference.type")

_Html = NewType("_Html", str)

#: What values are called, the columns of a table of them, and what gives the cells of a row.
_Columns: TypeAlias = "tuple[str, tuple[str, ...], Callable[[Any], tuple[_Html, ...]]]"

# Styles that matter are inline: untrusted, JupyterLab's own apply, which centre tables and move cells to the right.
_TABLE_TAG = '<table style="margin-left:0">'


def locator(value: Locator) -> str:
    """Return a locator as HTML."""
    return _page(
        "Locator",
        _code(str(value), _LONG_FIELD),
        _fields(**_place(value)),
    )


def _place(value: Locator) -> dict[str, _Html]:
    if value.names_files:
        return {"files": _code(value.path, _LONG_FIELD)}
    return {"host": _code(value.host, _LONG_FIELD), "repository": _code(value.path, _LONG_FIELD)}


def reference(value: Reference) -> str:
    """Return a reference as HTML."""
    return _page(
        "Reference",
        _code(str(value), _LONG_FIELD),
        _fields(
            **_place(value.locator),
            tag=_code(value.tag or ""),
            digest=_digest(value.digest),
        ),
    )


def digest(value: Digest) -> str:
    """Return a digest as HTML."""
    return _page("Digest", _digest(value))


def descriptor(value: Descriptor) -> str:
    """Return a descriptor as HTML."""
    return _page(
        "Descriptor",
        _code(value.media_type),
        _fields(
            digest=_digest(value.digest),
            size=_size(value.size),
            platform=_code("" if value.platform is None else str(value.platform)),
            artifact_type=_code(value.artifact_type or ""),
            data=_text("" if value.data is None else "embedded"),
        ),
        _listed("URL", (_row(_cell(_code(redact(url)))) for url in value.urls), len(value.urls)),
        _mapping("annotation", value.annotations),
    )


def manifest(value: Manifest) -> str:
    """Return a manifest as HTML."""
    total = sum(layer.size for layer in value.layers)
    return _page(
        "Manifest",
        _text(f"{counted(len(value.layers), 'layer')}, {human_size(total)}"),
        _fields(
            digest=_digest(value.digest),
            media_type=_code(value.media_type),
            artifact_type=_code(value.artifact_type or ""),
            config=_described(value.config),
            subject=_described(value.subject),
            layers=_size(total),
        ),
        _descriptors("layer", value.layers),
        _mapping("annotation", value.annotations),
    )


def index(value: Index) -> str:
    """Return an index as HTML."""
    return _page(
        "Index",
        _text(counted(len(value.manifests), "manifest")),
        _fields(
            digest=_digest(value.digest),
            media_type=_code(value.media_type),
            artifact_type=_code(value.artifact_type or ""),
            subject=_described(value.subject),
        ),
        _descriptors("manifest", value.manifests),
        _mapping("annotation", value.annotations),
    )


def image_config(value: ImageConfig) -> str:
    """Return an image config as HTML."""
    env = (entry.partition("=") for entry in value.env)
    return _page(
        "ImageConfig",
        _Html(f"{_code(str(value.platform))}, {_text(counted(len(value.diff_ids), 'layer'))}"),
        _fields(
            digest=_digest(value.digest),
            media_type=_code(value.media_type),
            created=_text(value.created),
            author=_text(value.author),
            entrypoint=_code(shlex.join(value.entrypoint), _LONG_FIELD),
            command=_code(shlex.join(value.cmd), _LONG_FIELD),
            user=_code(value.user),
            working_directory=_code(value.working_dir),
            ports=_code(" ".join(value.exposed_ports)),
            volumes=_code(shlex.join(value.volumes)),
            stop_signal=_code(value.stop_signal),
        ),
        _listed("variable", (_pair(name, text) for name, _, text in env), len(value.env), opened=True),
        _mapping("label", value.labels),
        _history(value.history),
    )


def blob(digest: Digest, size: int | None, media_type: str | None) -> str:
    """Return a blob as HTML.

    Args:
        digest: What its bytes hash to.
        size: In bytes; None where it is not known yet.
        media_type: None where it is not known yet.
    """
    unknown = _Html("<em>not known yet</em>")
    return _page(
        "Blob",
        _digest(digest),
        _fields(
            size=unknown if size is None else _size(size),
            media_type=unknown if media_type is None else _code(media_type),
        ),
    )


def remote(locator: str, endpoint: str) -> str:
    """Return a remote as HTML.

    Args:
        locator: What it fetches from.
        endpoint: The URL that is asked.
    """
    return _page("Remote", _code(locator, _LONG_FIELD), _fields(endpoint=_code(redact(endpoint))))


def tag_list(name: str, shown: tuple[str, ...], count: int | None) -> str:
    """Return a listing of tags or repositories as HTML.

    Args:
        name: Whose tags, or whose repositories.
        shown: The first entries.
        count: How many there are; None where they have not been read to the end.
    """
    listed = _Html(" ".join(_code(entry) for entry in shown[:_ROWS]))
    if count is None:
        more = "… not read to the end" if shown else "not read yet"
    else:
        more = _more(count - len(shown[:_ROWS]))
    about = "" if count is None else "1 entry" if count == 1 else f"{count:,} entries"
    return _page(
        "TagList",
        _Html(f"{_code(name, _LONG_FIELD)} {_text(about)}"),
        _Html(f"<p>{listed} {_text(more)}</p>") if listed or more else _Html(""),
    )


def plan(name: str, target: Descriptor, steps: tuple[tuple[Descriptor, int], ...], requests: int, to_fetch: int) -> str:
    """Return what a pull will do as HTML.

    Args:
        name: What the image will be known by.
        target: What the name will stand for.
        steps: What it consists of, each with its bytes that are here.
        requests: How many it takes at least.
        to_fetch: Bytes that come with them.
    """
    here = sum(count for _, count in steps)

    def row(descriptor: Descriptor, count: int) -> _Html:
        state = "here" if count == descriptor.size else f"{human_size(count)} here" if count else "missing"
        return _row(
            _cell(_code(descriptor.media_type)),
            _size_cell(descriptor.size),
            _cell(_text(state)),
            _cell(_digest(descriptor.digest)),
        )

    return _page(
        "Plan",
        _code(name, _LONG_FIELD),
        _fields(
            digest=_digest(target.digest),
            media_type=_code(target.media_type),
            to_fetch=_size(to_fetch),
            here=_size(here),
            requests=_text(f"{requests:,}"),
        ),
        _listed(
            "part",
            (row(descriptor, count) for descriptor, count in steps),
            len(steps),
            head=("media type", "size", "state", "digest"),
            room=_DESCRIPTOR_TABLE,
            opened=True,
        ),
    )


def image(
    name: str,
    digest: Digest,
    config: ImageConfig,
    layers: tuple[tuple[Descriptor, HistoryEntry | None], ...],
    size: int,
) -> str:
    """Return an image as HTML.

    Args:
        name: What it was asked for by.
        digest: Of its manifest.
        config: How it is run.
        layers: The lowest first, each with the step that made it, where that is known.
        size: Bytes of all of it, as they come over the wire.
    """
    return _page(
        "Image",
        _code(name, _LONG_FIELD),
        _fields(
            digest=_digest(digest),
            platform=_code(str(config.platform)),
            created=_text(config.created),
            entrypoint=_code(shlex.join(config.entrypoint), _LONG_FIELD),
            command=_code(shlex.join(config.cmd), _LONG_FIELD),
            user=_code(config.user),
            download=_size(size),
        ),
        _layers(layers, opened=True),
        _history(config.history),
    )


def _layers(layers: tuple[tuple[Descriptor, HistoryEntry | None], ...], *, opened: bool | None) -> _Html:
    """Return a table of layers, the lowest first, with bars for their sizes and the steps that made them."""
    largest = max((layer.size for layer, _ in layers), default=0)

    def row(number: int, layer: Descriptor, made: HistoryEntry | None) -> _Html:
        return _row(
            _cell(_text(str(number))),
            _size_cell(layer.size),
            _bar(layer.size, largest),
            _cell(_code("" if made is None else made.created_by or made.comment)),
            _cell(_digest(layer.digest)),
        )

    return _listed(
        "layer",
        (row(number, layer, made) for number, (layer, made) in enumerate(layers)),
        len(layers),
        head=("#", "size", "", "created by", "digest"),
        room=_LAYER_TABLE,
        opened=opened,
    )


def diff(value: Diff) -> str:
    """Return what differs between two images as HTML: of files and packages, the largest changes are seen."""

    def setting(change: SettingChange) -> _Html:
        return _row(_cell(_code(change.name)), _cell(_code(_json(change.before))), _cell(_code(_json(change.after))))

    def package(change: PackageChange) -> _Html:
        versions = (found and f"{found.version} {found.architecture}" for found in (change.before, change.after))
        return _row(_cell(_code(change.package.name)), *(_cell(_code(version or "")) for version in versions))

    def file(change: FileChange) -> _Html:
        about = f"{change.what}: {', '.join(change.how)}" if change.how else change.what
        sides = zip((change.before, change.after), change.sizes, strict=True)
        sizes = (_size_cell(size) if found is not None else _cell(_Html("")) for found, size in sides)
        return _row(_cell(_code(change.path)), _cell(_text(about)), *sizes)

    def forked(mark: str, entries: Iterable[str]) -> Iterable[_Html]:
        return (_row(_cell(_text(mark)), _cell(_code(entry))) for entry in entries)

    steps, layers = value.history, value.layers
    files = sorted(value.files, key=lambda change: -max(change.sizes))
    return _page(
        "Diff",
        _text(value.summary),
        _fields(before=_code(str(value.before), _LONG_FIELD), after=_code(str(value.after), _LONG_FIELD)),
        _listed(
            "setting",
            map(setting, value.settings),
            len(value.settings),
            head=("name", "before", "after"),
            room=_DIFF_TABLE,
        ),
        _listed(
            "step",
            chain(
                forked("-", (step.created_by or step.comment for step in steps.before)),
                forked("+", (step.created_by or step.comment for step in steps.after)),
            ),
            len(steps.before) + len(steps.after),
            about=_text(f"after {steps.shared:,} in common"),
            room=_DIFF_TABLE,
        ),
        _listed(
            "layer",
            chain(
                forked("-", (f"{layer.digest} {human_size(layer.size)}" for layer in layers.before)),
                forked("+", (f"{layer.digest} {human_size(layer.size)}" for layer in layers.after)),
            ),
            len(layers.before) + len(layers.after),
            about=_text(f"above {layers.shared:,} in common"),
            room=_DIFF_TABLE,
        ),
        _listed(
            "package",
            map(package, value.packages),
            len(value.packages),
            head=("name", "before", "after"),
            room=_DIFF_PACKAGES,
            opened=True,
        ),
        _listed(
            "file",
            map(file, files),
            len(files),
            head=("path", "change", "before", "after"),
            room=_DIFF_FILES,
            opened=True,
        ),
    )


def layer(value: Layer) -> str:
    """Return a layer as HTML."""
    made = value.history
    return _page(
        "Layer",
        _Html(f"{_text(str(value.number))} {_digest(value.descriptor.digest)}"),
        _fields(
            size=_size(value.size),
            media_type=_code(value.descriptor.media_type),
            unpacks_to=_digest(value.diff_id),
            created=_text("" if made is None else made.created),
            created_by=_code("" if made is None else made.created_by or made.comment, _LONG_FIELD),
        ),
        _mapping("annotation", value.descriptor.annotations),
    )


def entry(value: Entry) -> str:
    """Return a name in a tree as HTML."""
    return _page(
        "Entry",
        _code(value.path, _LONG_FIELD),
        _member_fields(value.member, layer=value.layer, hard_link=value.hard_link),
    )


def member(value: Member) -> str:
    """Return an entry of a layer as HTML."""
    return _page("Member", _code(_path(value.path), _LONG_FIELD), _member_fields(value))


def _member_fields(value: Member, *, layer: int | None = None, hard_link: bool = False) -> _Html:
    device = value.kind.name.endswith("DEVICE")
    return _Html(
        _fields(
            kind=_value("", value.kind),
            size=_size(value.size) if value.kind.name == "FILE" else _Html(""),
            mode=_code(f"{_mode(value)} ({value.mode:04o})"),
            owner=_text(_owner(value.uid, value.uname)),
            group=_text(_owner(value.gid, value.gname)),
            modified=_text(f"{_moment(value.mtime)} UTC"),
            link=_code(_path(value.link), _LONG_FIELD),
            device=_text("{}:{}".format(*value.device) if device else ""),
            layer=_text("" if layer is None else str(layer)),
            hard_link=_text("yes" if hard_link else ""),
        )
        + _mapping("extended attribute", {_path(name): _path(data) for name, data in value.xattrs.items()})
    )


def _owner(number: int, name: bytes) -> str:
    return f"{number} ({_path(name)})" if name else str(number)


def _path(name: bytes) -> str:
    """Return bytes that are mostly text as text."""
    return name.decode("utf-8", "backslashreplace")


def usage(value: Usage) -> str:
    """Return where the bytes of an image are as HTML."""
    largest = max((part.content for part in value.layers), default=0)

    def row(part: LayerUsage) -> _Html:
        return _row(
            _cell(_text(str(part.layer.number))),
            _size_cell(part.packed),
            _size_cell(part.content),
            _bar(part.content, largest),
            _size_cell(part.wasted),
            _number_cell(part.files),
        )

    folders = sorted(value.folders.items(), key=lambda item: (-item[1], item[0]))
    return _page(
        "Usage",
        _text(f"{human_size(value.content)} in files, {human_size(value.wasted)} hidden by later layers"),
        _listed(
            "layer",
            map(row, value.layers),
            len(value.layers),
            head=("#", "packed", "content", "", "hidden", "files"),
            room=_DESCRIPTOR_TABLE,
            opened=True,
        ),
        _listed(
            "folder",
            (_row(_size_cell(size), _bar(size, value.content), _cell(_code(path))) for path, size in folders),
            len(folders),
            head=("bytes below", "", "folder"),
            room=_HISTORY_TABLE,
            opened=True,
        ),
    )


def referrers(name: str, shown: tuple[Descriptor, ...], count: int | None) -> str:
    """Return what refers to a document as HTML.

    Args:
        name: The document's.
        shown: The first ones.
        count: How many there are; None where they have not been read to the end.
    """
    about = "not read yet" if count is None and not shown else "" if count is not None else "not read to the end"
    return _page(
        "Referrers",
        _Html(f"{_code(name, _LONG_FIELD)} {_text(about)}"),
        _descriptors("referrer", shown, count=count),
    )


def error(kind: str, message: str, data: Mapping[str, object]) -> str:
    """Return an error as HTML: what it says, and what it carries."""
    return _page(kind, _text(message, 4_000), _facts(data.items()))


@runtime_checkable
class _Noted(Protocol):
    """What has something to say besides its fields: `Applied`."""

    def notes(self) -> tuple[str, ...]: ...


def show(value: object) -> str:
    """Return any value that is `Displayed` as HTML: its fields, and lists of what they hold."""
    kind = type(value).__name__
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(value)
    notes = value.notes() if isinstance(value, _Noted) else ()
    line = repr(value)
    if line.startswith(f"<{kind}"):  # what is worth a line is worth a title
        title = line.removeprefix(f"<{kind}").removesuffix(">").lstrip(": ")
    else:
        title = str(value) if type(value).__str__ is not object.__str__ else ""
    return _page(
        kind,
        _text(title, _LONG_FIELD),
        _facts(facts(value)),
        *(_Html(f"<p>{_text(note)}</p>") for note in notes),
    )


def rows(values: Sequence[object]) -> str:
    """Return a list of values of one kind as a table."""
    kind = type(values[0]).__name__ if values else ""
    noun, *_ = _TABLES.get(kind, ("entry",))
    title = _text(counted(len(values), noun) if values else "nothing")
    return _page("", title, _table(values, opened=None))


def named_rows(values: Mapping[str, Any]) -> str:
    """Return a table of names and their descriptors."""

    def row(name: str, value: Descriptor) -> _Html:
        platform = _code("" if value.platform is None else str(value.platform))
        return _row(
            _cell(_code(name, _LONG_FIELD)),
            _cell(platform),
            _cell(_code(value.media_type)),
            _cell(_digest(value.digest)),
        )

    return _page(
        "",
        _text(counted(len(values), "image") if values else "no images"),
        _listed(
            "image",
            (row(name, value) for name, value in values.items()),
            len(values),
            head=("name", "platform", "media type", "digest"),
            room=_PAGE_TABLE,
            opened=None,
        ),
    )


#: Fields that are a number of bytes, where they are whole numbers.
_BYTES = frozenset(
    {"content", "document", "error", "headers", "here", "limit", "missing"}
    | {"offset", "packed", "size", "stored", "token", "total", "wasted"}
)
#: Entries of a list without a table of its own that stand beside its name.
_BESIDE = 6


def _facts(found: Iterable[tuple[str, object]]) -> _Html:
    """Return names and values: those that are lists below the table of the others."""
    told: dict[str, _Html] = {}
    below: list[_Html] = []
    for name, value in islice(found, _ROWS):
        if isinstance(value, tuple | list | frozenset):
            entries = sorted(value, key=str) if isinstance(value, frozenset) else list(value)
            if entries and _has_columns(entries[0]):
                below.append(_table(entries, opened=False, named=name))
            elif len(entries) > _BESIDE:
                below.append(_plain(name, entries))
            else:
                told[name] = _Html(" ".join(_value("", entry) for entry in entries))
        elif isinstance(value, Mapping):
            below.append(_mapping(name.removesuffix("s"), {str(key): str(text) for key, text in value.items()}))
        else:
            told[name] = _value(name, value)
    return _Html(_fields(**told) + "".join(below[:3]))


def _plain(name: str, entries: list[object]) -> _Html:
    """Return a list of what has no table of its own."""
    return _listed(name.replace("_", " "), (_row(_cell(_value("", e))) for e in entries), len(entries))


def _has_columns(value: object) -> bool:
    return type(value).__name__ in _TABLES or (
        hasattr(value, "__attrs_attrs__") and not isinstance(value, DisplayedAsText)
    )


def _columns(value: object) -> _Columns:
    """Return what a table of values without one of their own is like: a column for a field."""
    if not _has_columns(value):
        return "entry", (), lambda value: (_cell(_value("", value)),)
    head = tuple(name.replace("_", " ") for name, _ in islice(facts(value), _BESIDE))

    def cells(value: object) -> tuple[_Html, ...]:
        return tuple(_cell(_value(name, found)) for name, found in islice(facts(value), _BESIDE))

    return "entry", head, cells


def _value(name: str, value: object) -> _Html:
    """Return the value of a field."""
    match value:
        case None:
            return _Html("")
        case bool():
            return _text("yes" if value else "no")
        case int():
            return _size(value) if name in _BYTES else _text(f"{value:,}")
        case float():  # all of them are durations
            return _text(f"{value:g} s")
        case datetime():
            return _text(f"{value:%Y-%m-%d %H:%M:%S} UTC")
        case bytes():
            return _code(_path(value), _LONG_FIELD)
        case _ if type(value).__name__ == "Digest":
            return _digest(cast("Digest", value))
        case tuple() | list():
            return _code(", ".join(map(str, islice(value, _BESIDE))), _LONG_FIELD)
        case Mapping():
            texts = (f"{key}:{text}" for key, text in islice(value.items(), _BESIDE))
            return _code(", ".join(texts), _LONG_FIELD)
        case Enum():
            return _text(value.name.lower().replace("_", " "))
        case _:
            return _code(str(value), _LONG_FIELD)


def _table(values: Sequence[Any], *, opened: bool | None, named: str = "") -> _Html:
    """Return values of one kind as a table: under a summary, or bare where ``opened`` is None.

    Args:
        values: All of them.
        opened: As of `_listed`.
        named: What they are in a value that has them, ``diff_ids``.
    """
    if not values:
        return _Html("")
    kind = type(values[0]).__name__
    noun, head, row = _TABLES.get(kind) or _columns(values[0])
    if kind == "Layer":
        return _layers(tuple((value.descriptor, value.history) for value in values), opened=opened)
    if kind == "HistoryEntry":
        return _history(tuple(values), opened=opened)
    room = _TABLE if opened is not None else _PAGE_TABLE
    noun = named.replace("_", " ") or noun
    return _listed(noun, (_row(*row(value)) for value in values), len(values), head=head, room=room, opened=opened)


def _entry_cells(value: Entry) -> tuple[_Html, ...]:
    member = value.member
    link = _path(member.link) if member.kind.name == "SYMLINK" else ""
    path = f"{value.path} -> {link}" if link else value.path
    has_size = member.kind.name == "FILE"
    return (
        _cell(_code(_mode(member))),
        _cell(_text(f"{member.uid}:{member.gid}")),
        _size_cell(member.size) if has_size else _cell(_Html("")),
        _cell(_text(_moment(member.mtime))),
        _cell(_text(str(value.layer))),
        _cell(_code(path, _LONG_FIELD)),
    )


#: By the name of the kind; those that `stat.filemode` knows.
_FILE_TYPES = {
    "FOLDER": stat.S_IFDIR,
    "SYMLINK": stat.S_IFLNK,
    "FIFO": stat.S_IFIFO,
    "CHARACTER_DEVICE": stat.S_IFCHR,
    "BLOCK_DEVICE": stat.S_IFBLK,
}


def _mode(member: Member) -> str:
    return stat.filemode(_FILE_TYPES.get(member.kind.name, stat.S_IFREG) | member.mode)


def _moment(nanoseconds: int) -> str:
    """Return a time as ``2026-07-11 00:00``, UTC, or nothing where it is none."""
    try:
        return f"{datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return ""


def _member_cells(value: Member) -> tuple[_Html, ...]:
    return (
        _cell(_code(_mode(value))),
        _size_cell(value.size) if value.kind.name == "FILE" else _cell(_Html("")),
        _cell(_text(_moment(value.mtime))),
        _cell(_code(_path(value.path), _LONG_FIELD)),
    )


#: By the name of the class.
_TABLES: dict[str, _Columns] = {
    "Active": (
        "ingest",
        ("key", "here", "of", "updated", "process"),
        lambda v: (
            _cell(_code(v.key, _LONG_FIELD)),
            _size_cell(v.offset),
            _size_cell(v.total) if v.total is not None else _cell(_Html("")),
            _cell(_value("", v.updated)),
            _number_cell(v.pid),
        ),
    ),
    "Descriptor": (
        "descriptor",
        ("media type", "size", "digest"),
        lambda v: (_cell(_code(v.media_type)), _size_cell(v.size), _cell(_digest(v.digest))),
    ),
    "Digest": ("digest", (), lambda v: (_cell(_digest(v)),)),
    "Entry": ("file", ("mode", "owner", "size", "modified", "layer", "path"), _entry_cells),
    "HistoryEntry": ("step", (), lambda v: (_cell(_code(v.created_by)),)),
    "Info": (
        "blob",
        ("size", "committed", "digest"),
        lambda v: (_size_cell(v.size), _cell(_value("", v.committed)), _cell(_digest(v.digest))),
    ),
    "Layer": ("layer", (), lambda v: (_cell(_digest(v.descriptor.digest)),)),
    "Member": ("entry", ("mode", "size", "modified", "path"), _member_cells),
    "Package": (
        "package",
        ("name", "version", "architecture", "manager"),
        lambda v: tuple(_cell(_code(text)) for text in (v.name, v.version, v.architecture, v.manager)),
    ),
    "Step": (
        "part",
        ("media type", "size", "here", "digest"),
        lambda v: (
            _cell(_code(v.descriptor.media_type)),
            _size_cell(v.descriptor.size),
            _size_cell(v.here),
            _cell(_digest(v.descriptor.digest)),
        ),
    ),
}

#: Values that have a page of their own.
_SPECIAL: dict[str, Callable[[Any], str]] = {"Entry": entry, "Layer": layer, "Member": member, "Usage": usage}


def _json(value: object) -> str:
    """Return a value of a config: a text as it is, and anything else as JSON has it."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def _style() -> str:
    from importlib.resources import files

    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _page(kind: str, title: _Html, *parts: _Html) -> str:
    named = f"<strong>{_text(kind)}</strong> {title}" if kind else f"<strong>{title}</strong>"
    return f'<div class="distsdk"><style>{_style()}</style><p>{named}</p>{"".join(parts)}</div>'


def _text(value: str, room: int = _FIELD) -> _Html:
    """Return ``value`` escaped, with what cannot be shown made visible, and cut where it takes more than ``room``.

    Args:
        value: Whatever a registry sent.
        room: In bytes of HTML, without the ellipsis.
    """
    pieces: list[str] = []
    for character in value:
        piece = escape(printable(character), quote=True)
        room -= len(piece.encode())
        if room < 0:
            pieces.append("…")
            break
        pieces.append(piece)
    return _Html("".join(pieces))


def _code(value: str, room: int = _FIELD) -> _Html:
    return _Html(f"<code>{_text(value, room)}</code>") if value else _Html("")


def _digest(digest: Digest | None) -> _Html:
    """Return a digest: the style shows its start, and a click selects all of it; without the style all is shown."""
    return (
        _Html(f'<code class="ds-digest">{_text(str(digest), _LONG_FIELD)}</code>') if digest is not None else _Html("")
    )


def _bar(size: int, largest: int) -> _Html:
    """Return a bar for a part of what is largest, in text, as pictures and styles do not survive everywhere."""
    eighths = round(size / largest * _BAR * 8) if largest > 0 else 0
    whole, rest = divmod(max(min(eighths, _BAR * 8), 1 if size else 0), 8)
    # From U+2588, FULL BLOCK, down to U+258F, LEFT ONE EIGHTH BLOCK.
    return _Html(f'<td style="text-align:left"><span class="ds-bar">{chr(0x2588) * whole}{_EIGHTHS[rest]}</span></td>')


def _size(size: int) -> _Html:
    exact, human = _exact(size), human_size(size)
    return _text(exact if human == exact else f"{human} ({exact})")


def _size_cell(size: int) -> _Html:
    shown = _unbroken(human_size(size))
    return _Html(f'<td style="text-align:right" title="{_exact(size)}">{shown}</td>')


def _number_cell(number: int) -> _Html:
    return _Html(f'<td style="text-align:right">{number:,}</td>')


def _exact(size: int) -> str:
    return counted(size, "byte")


def _unbroken(text: str) -> str:
    """Return ``text`` with spaces that no line ends at."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _more(count: int) -> str:
    return f"… and {count:,} more" if count > 0 else ""


def _fields(**fields: _Html) -> _Html:
    """Return a table of names and values, without the values that are empty."""
    rows = (
        f'<tr><th scope="row" style="text-align:left">{name.replace("_", " ")}</th>{_cell(value)}</tr>'
        for name, value in fields.items()
        if value
    )
    return _Html(f"{_TABLE_TAG}{''.join(rows)}</table>")


def _cell(value: _Html) -> _Html:
    return _Html(f'<td style="text-align:left">{value}</td>')


def _row(*cells: _Html) -> _Html:
    return _Html(f"<tr>{''.join(cells)}</tr>")


def _pair(name: str, value: str) -> _Html:
    return _row(_cell(_code(name)), _cell(_code(value, _LONG_FIELD)))


def _listed(
    noun: str,
    rows: Iterable[_Html],
    count: int,
    *,
    head: tuple[str, ...] = (),
    about: _Html = _Html(""),
    room: int = _TABLE,
    opened: bool | None = False,
) -> _Html:
    """Return a table under a summary that counts its rows; nothing where there are none.

    Args:
        noun: What a row is.
        rows: Asked for no more than are shown.
        count: Of all rows.
        head: The names of the columns, where they need any.
        about: What all rows have in common.
        room: For the rows, in bytes of HTML.
        opened: Whether the table is seen at once; None for a table without a summary.
    """
    if not count:
        return _Html("")
    shown: list[_Html] = []
    for row in islice(rows, _ROWS):
        room -= len(row.encode())
        if room < 0:
            break
        shown.append(row)
    left_out = _more(count - len(shown))
    names = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in head)
    # What a field is called may be no noun: "2 damaged".
    many = f"{count:,} {noun}" if noun.endswith(("s", "ed")) and count != 1 else counted(count, noun.removesuffix("s"))
    summary = f"{many} {about}" if about else many
    table = (
        f"{_TABLE_TAG}{f'<thead><tr>{names}</tr></thead>' if names else ''}<tbody>{''.join(shown)}</tbody></table>"
        f"{f'<p>{left_out}</p>' if left_out else ''}"
    )
    if opened is None:
        return _Html(table)
    return _Html(f"<details{' open' if opened else ''}><summary>{summary}</summary>{table}</details>")


def _mapping(noun: str, texts: Mapping[str, str]) -> _Html:
    return _listed(noun, (_pair(key, value) for key, value in texts.items()), len(texts))


def _described(value: Descriptor | None) -> _Html:
    """Return a descriptor in one line."""
    if value is None:
        return _Html("")
    return _Html(f"{_digest(value.digest)} {_code(value.media_type)} {_size(value.size)}")


def _about(entry: Descriptor) -> str:
    telling = [entry.annotations.get(key) for key in _TELLING]
    return ", ".join(text for text in (*telling, entry.artifact_type) if text)


def _descriptors(noun: str, entries: tuple[Descriptor, ...], *, count: int | None = None) -> _Html:
    """Return a table of descriptors; a media type that is common to all stands above it.

    Args:
        noun: What they are.
        entries: All of them, or the first ones of ``count``.
        count: Of all.
    """
    if not entries:
        return _Html("")
    seen = entries[:_ROWS]
    largest = max(entry.size for entry in seen)
    common = seen[0].media_type if len({entry.media_type for entry in entries}) == 1 else ""
    columns = {
        "#": True,
        "platform": any(entry.platform for entry in seen),
        "about": any(map(_about, seen)),
        "media type": not common,
        "size": True,
        "": noun == "layer",
        "digest": True,
    }

    def row(number: int, entry: Descriptor) -> _Html:
        cells = {
            "#": _cell(_text(str(number))),
            "platform": _cell(_code(str(entry.platform or ""))),
            "about": _cell(_code(_about(entry))),
            "media type": _cell(_code(entry.media_type)),
            "size": _size_cell(entry.size),
            "": _bar(entry.size, largest),
            "digest": _cell(_digest(entry.digest)),
        }
        return _row(*(cell for name, cell in cells.items() if columns[name]))

    return _listed(
        noun,
        (row(number, entry) for number, entry in enumerate(entries)),
        len(entries) if count is None else count,
        head=tuple(name for name, shown in columns.items() if shown),
        about=_code(common),
        room=_DESCRIPTOR_TABLE,
        opened=True,
    )


def _history(entries: tuple[HistoryEntry, ...], *, opened: bool | None = False) -> _Html:
    """Return the steps of a build, each with the number of the layer that it left."""

    def rows() -> Iterable[_Html]:
        layer = 0  # as `Layer.number` counts
        for entry in entries:
            yield _row(
                _cell(_text("" if entry.empty_layer else str(layer))),
                _Html(f'<td style="text-align:left;white-space:nowrap">{_text(entry.created)}</td>'),
                _cell(_code(entry.created_by or entry.comment or entry.author, _LONG_FIELD)),
            )
            layer += not entry.empty_layer

    head = ("layer", "created", "created by")
    return _listed("step", rows(), len(entries), head=head, room=_HISTORY_TABLE, opened=opened)
