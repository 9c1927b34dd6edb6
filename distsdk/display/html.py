"""HTML of values, for notebooks: of what is known already, so that a look costs no request and opens no blob.

It reads well where only the tags survive: JupyterLab drops ``<style>`` from a notebook it does not trust, GitHub drops
``style`` attributes too. Whatever comes in, it is at most `MAX_BYTES` long, and says what it leaves out.

Text that came from elsewhere passes through `_text`, which escapes it; the type `_Html` is what has been escaped.
"""

from __future__ import annotations

import json
import shlex
from functools import cache
from html import escape
from itertools import chain, islice
from typing import TYPE_CHECKING, NewType

from distsdk.errors import printable, redact
from distsdk.model.descriptor import REF_NAME, TITLE
from distsdk.model.wording import counted, human_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distsdk.analysis.diff import Diff, FileChange, PackageChange, SettingChange
    from distsdk.model.descriptor import Descriptor
    from distsdk.model.digest import Digest
    from distsdk.model.image import HistoryEntry, ImageConfig, Index, Manifest
    from distsdk.model.reference import Locator, Reference

#: Bytes of UTF-8 that any of these functions returns at most.
MAX_BYTES = 20_000

#: Rows of a table, and entries of a list.
_ROWS = 20
# Bytes of HTML. They add up to less than MAX_BYTES with all fields of the largest value, the image config.
_FIELD = 160
_LONG_FIELD = 320
_TABLE = 3_900
_HISTORY_TABLE = 6_400
_DESCRIPTOR_TABLE = 9_000
_DIFF_TABLE = 2_200
_DIFF_PACKAGES = 3_600
_DIFF_FILES = 4_600

#: Annotations that say in a word what an entry of a list is: a file's name, a tag, an attestation.
#: https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys
_TELLING = (TITLE, REF_NAME, "vnd.docker.reference.type")

_Html = NewType("_Html", str)

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
            digest=_code(str(value.digest or "")),
        ),
    )


def digest(value: Digest) -> str:
    """Return a digest as HTML."""
    return _page("Digest", _code(str(value)))


def descriptor(value: Descriptor) -> str:
    """Return a descriptor as HTML."""
    return _page(
        "Descriptor",
        _code(value.media_type),
        _fields(
            digest=_code(str(value.digest)),
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
            digest=_code(str(value.digest)),
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
            digest=_code(str(value.digest)),
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
            digest=_code(str(value.digest)),
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
        _code(str(digest)),
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
            _cell(_code(str(descriptor.digest))),
        )

    return _page(
        "Plan",
        _code(name, _LONG_FIELD),
        _fields(
            digest=_code(str(target.digest)),
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

    def row(number: int, layer: Descriptor, made: HistoryEntry | None) -> _Html:
        return _row(
            _cell(_text(str(number))),
            _size_cell(layer.size),
            _cell(_code("" if made is None else made.created_by or made.comment)),
            _cell(_code(str(layer.digest))),
        )

    return _page(
        "Image",
        _code(name, _LONG_FIELD),
        _fields(
            digest=_code(str(digest)),
            platform=_code(str(config.platform)),
            created=_text(config.created),
            entrypoint=_code(shlex.join(config.entrypoint), _LONG_FIELD),
            command=_code(shlex.join(config.cmd), _LONG_FIELD),
            user=_code(config.user),
            download=_size(size),
        ),
        _listed(
            "layer",
            (row(number, layer, made) for number, (layer, made) in enumerate(layers)),
            len(layers),
            head=("#", "size", "created by", "digest"),
            room=_DESCRIPTOR_TABLE,
            opened=True,
        ),
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


def _json(value: object) -> str:
    """Return a value of a config: a text as it is, and anything else as JSON has it."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def _style() -> str:
    from importlib.resources import files

    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def _page(kind: str, title: _Html, *parts: _Html) -> str:
    return f'<div class="distsdk"><style>{_style()}</style><p><strong>{kind}</strong> {title}</p>{"".join(parts)}</div>'


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


def _size(size: int) -> _Html:
    exact, human = _exact(size), human_size(size)
    return _text(exact if human == exact else f"{human} ({exact})")


def _size_cell(size: int) -> _Html:
    shown = _unbroken(human_size(size))
    return _Html(f'<td style="text-align:right" title="{_exact(size)}">{shown}</td>')


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
    opened: bool = False,
) -> _Html:
    """Return a table under a summary that counts its rows; nothing where there are none.

    Args:
        noun: What a row is.
        rows: Asked for no more than are shown.
        count: Of all rows.
        head: The names of the columns, where they need any.
        about: What all rows have in common.
        room: For the rows, in bytes of HTML.
        opened: Whether the table is seen at once.
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
    summary = f"{counted(count, noun)} {about}" if about else counted(count, noun)
    return _Html(
        f"<details{' open' if opened else ''}><summary>{summary}</summary>{_TABLE_TAG}"
        f"{f'<thead><tr>{names}</tr></thead>' if names else ''}<tbody>{''.join(shown)}</tbody></table>"
        f"{f'<p>{left_out}</p>' if left_out else ''}</details>"
    )


def _mapping(noun: str, texts: Mapping[str, str]) -> _Html:
    return _listed(noun, (_pair(key, value) for key, value in texts.items()), len(texts))


def _described(value: Descriptor | None) -> _Html:
    """Return a descriptor in one line."""
    if value is None:
        return _Html("")
    return _Html(f"{_code(str(value.digest))} {_code(value.media_type)} {_size(value.size)}")


def _about(entry: Descriptor) -> str:
    telling = [entry.annotations.get(key) for key in _TELLING]
    return ", ".join(text for text in (*telling, entry.artifact_type) if text)


def _descriptors(noun: str, entries: tuple[Descriptor, ...]) -> _Html:
    """Return a table of descriptors; a media type that is common to all stands above it."""
    seen = entries[:_ROWS]
    common = seen[0].media_type if len({entry.media_type for entry in entries}) == 1 else ""
    columns = {
        "#": True,
        "platform": any(entry.platform for entry in seen),
        "about": any(map(_about, seen)),
        "media type": not common,
        "size": True,
        "digest": True,
    }

    def row(number: int, entry: Descriptor) -> _Html:
        cells = {
            "#": _cell(_text(str(number))),
            "platform": _cell(_code(str(entry.platform or ""))),
            "about": _cell(_code(_about(entry))),
            "media type": _cell(_code(entry.media_type)),
            "size": _size_cell(entry.size),
            "digest": _cell(_code(str(entry.digest))),
        }
        return _row(*(cell for name, cell in cells.items() if columns[name]))

    return _listed(
        noun,
        (row(number, entry) for number, entry in enumerate(entries, 1)),
        len(entries),
        head=tuple(name for name, shown in columns.items() if shown),
        about=_code(common),
        room=_DESCRIPTOR_TABLE,
        opened=True,
    )


def _history(entries: tuple[HistoryEntry, ...]) -> _Html:
    """Return the steps of a build, each with the number of the layer that it left."""

    def rows() -> Iterable[_Html]:
        layer = 0
        for entry in entries:
            layer += not entry.empty_layer
            yield _row(
                _cell(_text("" if entry.empty_layer else str(layer))),
                _cell(_text(entry.created)),
                _cell(_code(entry.created_by or entry.comment or entry.author, _LONG_FIELD)),
            )

    return _listed("step", rows(), len(entries), head=("layer", "created", "created by"), room=_HISTORY_TABLE)
