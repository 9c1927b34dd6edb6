"""Explorers: what they show of an image, a repository, a diff and a store, and what that costs."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from ipywidgets.widgets import widget as widget_module

import distsdk
from distsdk.display import explorer, widgets
from distsdk.display.explorer import PAGE, PICTURE_LIMIT, TEXT_LIMIT
from distsdk.errors import NotFound, Unsafe
from distsdk.testing import Registry, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk import Image
    from distsdk.display.widgets import TagExplorer

#: Names that markup, terminals and readers from right to left would act on.
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</pre></select><script>alert(1)<!--",
    "\x1b[31mred\x1b[0m",
    "a\nb\rc\x00d".replace("\x00", ""),
    "\u202egnp.exe",
    '"><b a="',
    "&lt;b&gt;",
)
#: What every HTML of an explorer may be made of.
ALLOWED = {
    "style": set[str](),
    "div": {"class", "role"},
    "table": set[str](),
    "tr": set[str](),
    "th": {"scope"},
    "td": {"class"},
    "pre": {"tabindex", "role", "aria-label"},
    "code": set[str](),
    "p": set[str](),
    "strong": set[str](),
    "img": {"alt", "src"},
}


def layer(files: dict[str, bytes], links: dict[str, str] | None = None, hard: dict[str, str] | None = None) -> bytes:
    """Return a layer of these files, compressed; ``/`` at the end makes a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type, info.size = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE, len(data)
            info.mtime = 1_700_000_000 + len(data)
            tar.addfile(info, io.BytesIO(data))
        for kind, pairs in ((tarfile.SYMTYPE, links), (tarfile.LNKTYPE, hard)):
            for name, target in (pairs or {}).items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


def png(width: int, height: int) -> bytes:
    """Return the picture of one black pixel, whose head says that it has so many."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


LOWER = layer(
    {
        "etc/": b"",
        "etc/os-release": b'ID="test"\nNAME=<Test> & more\n',
        "etc/gone": b"12345",
        "bin/tool": b"\x7fELF\0" + bytes(range(256)) * 40,
        "pic.png": png(1, 1),
    },
    {"etc/link": "os-release", "sbin": "bin"},
)
UPPER = layer({"etc/.wh.gone": b"", "etc/new": b"new", "opt/.wh..wh..opq": b""}, hard={"etc/other": "etc/os-release"})
HISTORY = [{"created_by": "ADD rootfs"}, {"created_by": "ENV A=b", "empty_layer": True}, {"created_by": "COPY new"}]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """Holds the image ``1`` of two layers, and ``7`` of two platforms; the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry:
        registry.add_image("x", "1", layers=[LOWER, UPPER], config={"history": HISTORY})
        images = [
            registry.add_image("x", layers=[layer({"arch": name.encode()})], platform=name)
            for name in ("linux/amd64", "linux/arm64")
        ]
        registry.add_index("x", "7", manifests=images)
        yield registry


@pytest.fixture
def look(registry: Registry) -> Callable[..., Image]:
    """Return an image by its tag."""
    return lambda tag, **more: distsdk.image(f"{registry.locator('x')}:{tag}", **{"platform": "linux/amd64", **more})


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let explorers take it that there is a front end."""
    monkeypatch.setattr(widgets, "has_front_end", lambda: True)


@pytest.fixture(autouse=True)
def no_widgets() -> Iterator[None]:
    """Forget widgets after each test."""
    yield
    widget_module.Widget.close_all()


def by_class(explorer: Any, name: str) -> Any:  # noqa: ANN401 - ipywidgets has no types
    """Return the widget of an explorer that has a class."""

    def below(widget: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
        yield widget
        for child in getattr(widget, "children", ()):
            yield from below(child)

    [found] = [widget for widget in below(explorer.box) if f"distsdk-{name}" in widget._dom_classes]
    return found


def rows(explorer: Any) -> list[str]:  # noqa: ANN401 - any of them
    """Return the names in the list that is shown, without their other columns."""
    return [label.split("  ")[0].strip() for label, _ in by_class(explorer, "files").options]


def select(explorer: Any, name: str) -> None:  # noqa: ANN401 - as above
    """Select a row by its name."""
    by_class(explorer, "files").index = rows(explorer).index(name)


def is_seen(widget: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether a widget takes up room."""
    return bool(widget.layout.display != "none")


def text(explorer: Any, name: str) -> str:  # noqa: ANN401 - as above
    """Return what an HTML widget shows."""
    return Page(by_class(explorer, name).value).text


class Page(HTMLParser):
    """HTML as a browser takes it: held against what is allowed, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.pictures: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert [] == self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Hold an element against what is allowed."""
        assert {name for name, _ in attrs} <= ALLOWED[tag]
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
            assert self.pictures[-1].startswith("data:image/")
        else:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Hold an end against its beginning."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep what is seen."""
        if self._open[-1:] != ["style"]:
            self.text += data

    def handle_comment(self, data: str) -> None:
        """Refuse it."""
        raise AssertionError(data)


# What is shown


def test_an_image_is_walked_through(look: Callable[..., Image]) -> None:
    """Folders are opened and left, by the list and by the path; a file is shown, and where it came from."""
    e = look("1").explore()
    assert ["bin/", "etc/", "pic.png", "sbin"] == rows(e)
    select(e, "etc/")
    assert "/etc" in text(e, "about")
    by_class(e, "open").click()
    assert "/etc" == by_class(e, "path").value
    assert ["link", "new", "os-release", "other"] == rows(e)
    select(e, "new")
    assert "COPY new" in text(e, "about")
    assert "layer1" in text(e, "about")
    by_class(e, "open").click()
    assert "new" in text(e, "preview")
    by_class(e, "up").click()
    assert "/" == by_class(e, "path").value
    assert "etc/" == rows(e)[by_class(e, "files").index]
    by_class(e, "path").value = "/etc/os-release"
    assert "NAME=<Test> & more" in text(e, "preview")
    assert "os-release" == rows(e)[by_class(e, "files").index]
    by_class(e, "path").value = "/etc/link"
    assert "NAME=<Test> & more" in text(e, "preview")
    assert "link" == rows(e)[by_class(e, "files").index]
    by_class(e, "path").value = "/sbin"
    assert "/bin" == by_class(e, "path").value
    select(e, "tool")
    by_class(e, "open").click()
    assert "00000000  7f 45 4c 46 00 00 01 02" in text(e, "preview")


def test_the_code_does_the_same(look: Callable[..., Image], registry: Registry) -> None:
    """What is shown as Python runs, and returns what is shown."""
    e = look("1").explore()
    files = e.files

    def result() -> Any:  # noqa: ANN401 - whatever it returns
        *lines, last = unescape(Page(by_class(e, "code").value).text).split("\n")
        names: dict[str, Any] = {"distsdk": distsdk}
        exec("\n".join(lines), names)  # noqa: S102 - what we show
        return eval(last, names)  # noqa: S307 - as above

    assert list(files.listing.items) == result()
    select(e, "etc/")
    assert "ADD rootfs" == result().created_by
    by_class(e, "path").value = "/etc/os-release"
    assert result().startswith('ID="test"')
    by_class(e, "path").value = "/bin/tool"
    assert result().startswith(b"\x7fELF")
    by_class(e, "layer").value = 0
    assert ".png" in str([member.path for member in result()])
    by_class(e, "path").value = "/etc/gone"
    assert b"12345" == result()


def test_a_layer_by_itself_shows_what_it_removes(look: Callable[..., Image]) -> None:
    """Whiteouts stand where they act; a hard link to a lower layer says where its content is."""
    e = look("1").explore()
    by_class(e, "layer").value = 1
    assert ["etc/", "opt/"] == rows(e)
    by_class(e, "path").value = "/etc"
    assert ["gone", "new", "other"] == rows(e)
    select(e, "gone")
    assert "removed" in by_class(e, "files").label
    assert "removes what lower layers have" in text(e, "about")
    by_class(e, "open").click()
    assert "nothing to open" in text(e, "status")
    select(e, "other")
    by_class(e, "open").click()
    assert "another name of etc/os-release in a layer below" in text(e, "status")
    by_class(e, "path").value = "/opt"
    assert [".wh..wh..opq"] == rows(e)
    by_class(e, "layer").value = 0
    assert ["bin/", "etc/", "pic.png", "sbin"] == rows(e)  # it has no /opt
    by_class(e, "layer").value = -1
    by_class(e, "path").value = "/etc/other"
    assert "ID=" in text(e, "preview")


def test_another_platform_is_chosen(look: Callable[..., Image]) -> None:
    """Those of the index are offered; the image is that one's afterwards. An image by itself has its own."""
    image = look("7")
    assert ["linux/amd64", "linux/arm64"] == list(map(str, image.platforms()))
    assert "linux/arm64" == image.for_platform("linux/arm64").read_text("/arch")
    e = image.explore()
    dropdown = by_class(e, "platform")
    assert (("linux/amd64", 0), ("linux/arm64", 1)) == dropdown.options
    dropdown.index = 1
    by_class(e, "path").value = "/arch"
    assert "linux/arm64" in text(e, "preview")
    assert 'platform="linux/arm64"' in text(e, "code")
    assert ["linux/amd64"] == list(map(str, look("1").platforms()))


def test_a_store_knows_platforms_too(registry: Registry, tmp_path: Path) -> None:
    """What was pulled is read there: nothing is fetched."""
    name = f"{registry.locator('x')}:1"
    distsdk.pull(name, distsdk.Store(tmp_path / "store"))
    image = distsdk.image(name, store=tmp_path / "store")
    before = len(registry.requests)
    assert (image.platform,) == image.platforms()
    image.read_text("/etc/os-release")
    assert 0 == image.fetched
    assert before == len(registry.requests)


def test_rows_are_filtered_sorted_and_turned(registry: Registry, look: Callable[..., Image]) -> None:
    """A page has so many rows; the filter looks for part of a name; keys that count rows turn pages."""
    names = {f"d/f{number:04}": b"x" * number for number in range(1000)}
    registry.add_image("x", "many", layers=[layer(names)])
    e = look("many").explore()
    by_class(e, "path").value = "/d"
    page, row, files = by_class(e, "page"), by_class(e, "row"), by_class(e, "files")
    assert (1, -(-1000 // PAGE)) == (page.value, page.max)
    assert PAGE == len(rows(e))
    page.value = 3
    assert f"f{2 * PAGE:04}" == rows(e)[0]
    row.value = 5 * PAGE + 1
    assert (6, 0) == (page.value, files.index)
    assert f"/d/f{5 * PAGE:04}" in text(e, "about")
    by_class(e, "sort").value = "largest first"
    assert "f0999" == rows(e)[0]
    by_class(e, "filter").value = "F00"
    assert 100 == row.max
    assert "f0099" == rows(e)[0]
    assert 0 == files.index  # the first one is selected
    assert "100 of 1,000" in text(e, "count")
    by_class(e, "filter").value = "nothing"
    assert [] == rows(e)
    assert (1, 1, 0, 0) == (page.value, page.max, row.value, row.max)
    by_class(e, "sort").value = "newest first"
    by_class(e, "filter").value = ""
    assert "f0999" == rows(e)[0]


def test_the_widgets_are_always_the_same(registry: Registry, look: Callable[..., Image]) -> None:
    """However many files there are, and whatever was done: no widget is made for a file."""
    registry.add_image("x", "many", layers=[layer({f"d/f{number:04}": b"" for number in range(1000)})])
    e = look("many").explore()
    assert e.box is e.box
    count = len(widget_module._instances)
    for path in ("/d", "/d/f0500", "/nothing", "/"):
        by_class(e, "path").value = path
    for number in range(1, 5):
        by_class(e, "row").value = number
    by_class(e, "usage").click()
    by_class(e, "layer").value = 0
    e.show(explorer.FilesView(look("1")))
    by_class(e, "path").value = "/etc/os-release"
    assert "ID=" in text(e, "preview")
    assert count == len(widget_module._instances)
    assert count < 90


def test_where_the_bytes_are(look: Callable[..., Image]) -> None:
    """A table by layer, with what later layers hide; folders have sizes afterwards."""
    e = look("1").explore()
    by_class(e, "usage").click()
    assert "5 bytes are hidden by later layers" in text(e, "preview")
    assert "5 bytes that later layers hide" in text(e, "status")
    by_class(e, "sort").value = "largest first"
    assert "bin/" == rows(e)[0]
    assert "10.0 KiB" in by_class(e, "files").options[0][0]


# What it costs


def test_a_large_layer_is_asked_for_first(
    registry: Registry, look: Callable[..., Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the ends of layers is fetched until the button is pressed, which says how much; a bar tells."""
    monkeypatch.setattr(explorer, "UNASKED", 100)
    image = look("1")
    e = image.explore()
    assert image.fetched < 200
    read, bar = by_class(e, "read"), by_class(e, "progress")
    assert is_seen(read)
    assert "Read 2 layers (" in read.description
    assert [] == rows(e)
    by_class(e, "path").value = "/etc"
    assert "not known yet" in text(e, "status")
    by_class(e, "usage").click()
    assert "first" in text(e, "status")
    seen: list[tuple[int, int]] = []
    bar.observe(lambda change: seen.append((change["new"], threading.get_ident())), "value")
    read.click()
    size = len(LOWER) + len(UPPER)
    assert (size, threading.get_ident()) == seen[-1]
    assert {threading.get_ident()} == {thread for _, thread in seen}
    assert size == bar.max
    assert size <= image.fetched <= size + 200
    assert not is_seen(read)
    assert not is_seen(bar)
    assert ["bin/", "etc/", "pic.png", "sbin"] == rows(e)
    # Once is enough: what it found is in the cache.
    assert 0 == look("1").explore().files.cost


def test_one_layer_costs_that_one(look: Callable[..., Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer by itself, the button reads no other."""
    monkeypatch.setattr(explorer, "UNASKED", 100)
    e = look("1").explore()
    by_class(e, "layer").value = 1
    assert "Read 1 layer (" in by_class(e, "read").description
    by_class(e, "read").click()
    assert ["etc/", "opt/"] == rows(e)
    by_class(e, "layer").value = -1
    assert "Read 1 layer (" in by_class(e, "read").description
    by_class(e, "read").click()
    assert 4 == len(rows(e))


def test_an_interrupt_stops_reading(look: Callable[..., Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error: the button is there still, and works."""
    monkeypatch.setattr(explorer, "UNASKED", 100)
    e = look("1").explore()
    assert e.box
    with monkeypatch.context() as patch:

        def interrupted(_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(e.files, "read", interrupted)
        by_class(e, "read").click()
    assert "interrupted" in text(e, "status")
    assert not by_class(e, "read").disabled
    by_class(e, "read").click()
    assert 4 == len(rows(e))


def test_an_interrupt_of_a_cell_is_one(look: Callable[..., Image], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a cell makes an explorer, Ctrl-C ends the cell."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explorer.FilesView, "begin", interrupted)
    image = look("1")
    with pytest.raises(KeyboardInterrupt):
        image.explore()


def test_blobs_of_layers_are_counted_and_pickled(look: Callable[..., Image]) -> None:
    """Each byte that comes is counted, by whatever way it is read; where a blob is unpickled, it reads as before."""
    image = look("1")
    blob = image.layers[0].blob
    assert LOWER == blob.read()
    assert len(LOWER) == image.fetched
    assert LOWER[5:15] == blob.read_range(5, 15)
    assert len(LOWER) + 10 == image.fetched
    assert LOWER == pickle.loads(pickle.dumps(blob)).read()  # noqa: S301 - our own
    assert len(LOWER) + 10 == image.fetched


def test_what_goes_wrong_is_said(registry: Registry, look: Callable[..., Image]) -> None:
    """At the beginning, and later on; the explorer stays what it was."""
    image = look("1")
    registry.fault(Status(404), path=r"/blobs/")
    e = image.explore()
    assert "does not exist" in text(e, "status")
    assert "Read 2 layers" in by_class(e, "read").description
    registry.clear_faults()
    by_class(e, "read").click()
    assert 4 == len(rows(e))
    registry.fault(Status(404), path=r"/blobs/")
    by_class(e, "path").value = "/bin/tool"
    assert "does not exist" in text(e, "status")
    assert "/bin" == by_class(e, "path").value
    registry.clear_faults()
    by_class(e, "open").click()
    assert "7f 45" in text(e, "preview")
    by_class(e, "path").value = "/nothing"
    assert "not found" in text(e, "status")
    assert "/bin" == by_class(e, "path").value


def test_a_layer_that_leads_out_is_refused(registry: Registry, look: Callable[..., Image]) -> None:
    """Its names are not shown as if they were right."""
    registry.add_image("x", "out", layers=[layer({"../etc/passwd": b""})])
    e = look("out").explore()
    assert "'..'" in text(e, "status")
    assert [] == rows(e)
    with pytest.raises(Unsafe):
        e.files.choose_layer(0)


# What may be in a file


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "0 bytes"),
        (b"plain\r\ntext\n\ttab", "plain\ntext\n\ttab"),
        ("žluťoučký 漢字".encode(), "žluťoučký 漢字"),
        (b"\x1b]0;title\x07<b>", "\\x1b]0;title\\x07<b>"),
        ("\u202eabc".encode(), "\\u202eabc"),
        (b"\xff\xfe\x00", "00000000  ff fe 00"),
        (b"latin-1: \xe9 and more", "00000000  6c 61 74 69 6e 2d 31 3a  20 e9"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "onload='alert(1)'/>"),
    ],
)
def test_content_is_text_or_bytes(registry: Registry, look: Callable[..., Image], data: bytes, expected: str) -> None:
    """Text is shown as it is, escaped; anything else in hexadecimal."""
    registry.add_image("x", "file", layers=[layer({"f": data})])
    e = look("file").explore()
    by_class(e, "path").value = "/f"
    assert expected in text(e, "preview")


def test_content_is_cut(registry: Registry, look: Callable[..., Image]) -> None:
    """Of a long text so much is shown, to a whole character, and that is said."""
    data = b"x" + "ž".encode() * TEXT_LIMIT
    registry.add_image("x", "file", layers=[layer({"f": data})])
    e = look("file").explore()
    by_class(e, "path").value = "/f"
    assert "; the first" in text(e, "preview")
    assert (TEXT_LIMIT - 1) // 2 == text(e, "preview").count("ž")
    assert "�" not in text(e, "preview")


@pytest.mark.parametrize(
    ("data", "is_shown"),
    [
        (png(1, 1), True),
        (png(4000, 4000), True),
        (png(60_000, 60_000), False),
        (png(1, 0), False),
        (png(1, 1) + bytes(PICTURE_LIMIT), False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"GIF89a" + struct.pack("<HH", 10, 10) + b"\0", True),
        (b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0", False),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 100, 100), True),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc2\x00\x11\x08" + struct.pack(">HH", 65500, 65500), False),
        (b"\xff\xd8\xff\xe0\x00\x00" * 10, False),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (99).to_bytes(3, "little") * 2, True),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (16383).to_bytes(3, "little") * 2, False),
        (b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + ((99 << 14) | 99).to_bytes(4, "little"), True),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 100, 100), True),
    ],
)
def test_a_picture_is_shown_unless_it_is_too_large(
    registry: Registry, look: Callable[..., Image], data: bytes, is_shown: bool
) -> None:
    """In bytes, or in pixels as its head tells: a small file may unpack to gigabytes in the browser."""
    registry.add_image("x", "file", layers=[layer({"f": data})])
    e = look("file").explore()
    by_class(e, "path").value = "/f"
    pictures = Page(by_class(e, "preview").value).pictures
    if is_shown:
        assert data == base64.b64decode(pictures[0].partition(",")[2])
    else:
        assert [] == pictures
        assert "00000000" in text(e, "preview")


def test_what_is_no_file_is_not_opened(registry: Registry, look: Callable[..., Image]) -> None:
    """A link that leads nowhere says so."""
    registry.add_image("x", "link", layers=[layer({}, {"link": "/nowhere"})])
    e = look("link").explore()
    by_class(e, "open").click()
    assert "select an entry first" in text(e, "status")
    select(e, "link")
    by_class(e, "open").click()
    assert "not found" in text(e, "status")
    by_class(e, "path").value = "/link"
    assert "link to" in text(e, "about")
    assert "not found" in text(e, "status")


# Hostile names


@pytest.mark.parametrize("name", HOSTILE)
def test_strings_of_a_registry_are_inert(registry: Registry, look: Callable[..., Image], name: str) -> None:
    """Names, links, steps and content are shown as text, and nothing of them reaches a widget that would act on it."""
    inner = name.replace("/", "|")
    data = layer({f"d/{inner}": name.encode()}, {f"l{inner}": name})
    registry.add_image("x", "bad", layers=[data], config={"history": [{"created_by": name}], "author": name})
    e = look("bad").explore()
    before = check(e)
    assert "created_by" not in before
    by_class(e, "path").value = "/d"
    by_class(e, "row").value = 1
    by_class(e, "open").click()
    check(e)
    assert by_class(e, "preview").value
    by_class(e, "path").value = f"/{name}"
    check(e)
    by_class(e, "layer").value = 0
    by_class(e, "row").value = 1
    check(e)
    assert "\x1b" not in str(e)
    Page(e._repr_html_())


def test_names_that_are_no_text_are_shown_and_opened(registry: Registry, look: Callable[..., Image]) -> None:
    """Bytes that are no UTF-8 appear escaped: what is sent to the front end can be encoded."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        info = tarfile.TarInfo("caf\xe9/\xff")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    registry.add_image("x", "latin", layers=[buffer.getvalue()])
    e = look("latin").explore()
    assert ["caf\\udce9/"] == rows(e)
    select(e, "caf\\udce9/")
    by_class(e, "open").click()
    select(e, "\\udcff")
    by_class(e, "open").click()
    check(e)
    assert "x" in text(e, "preview")
    assert "\\udcff" in text(e, "code")


def check(explorer: Any) -> str:  # noqa: ANN401 - any of them
    """Hold all that widgets show against what is allowed, and return it."""
    seen = []
    for widget in list(widget_module._instances.values()):
        state = widget.get_state()
        for key in ("value", "description", "tooltip", "placeholder"):
            value = state.get(key)
            if not isinstance(value, str):
                continue
            seen.append(value)
            if state["_model_name"] == "HTMLModel":
                Page(value)
            else:
                assert value.isprintable()
        assert all(label.isprintable() for label in state.get("_options_labels", ()))
    assert explorer.box
    return "\n".join(seen)


# Where there are no widgets


def test_outside_of_a_kernel_it_is_text(look: Callable[..., Image]) -> None:
    """What is shown is a listing, and what to call instead; no widget is made."""
    before = len(widget_module._instances)
    e = look("1").explore()
    bundle = e._repr_mimebundle_()
    assert {"text/plain", "text/html"} == bundle.keys()
    assert bundle["text/plain"] == str(e)
    assert "os-release" not in str(e)
    assert "etc/" in str(e)
    assert "image.ls('/')" in str(e)
    assert "etc/" in Page(bundle["text/html"]).text
    assert before == len(widget_module._instances)
    assert repr(e).startswith("<ImageExplorer 127.0.0.1")


@pytest.mark.slow
def test_in_a_plain_ipython_it_is_text(registry: Registry, tmp_path: Path) -> None:
    """IPython in a terminal has no front end for widgets."""
    code = f"import distsdk; distsdk.image('{registry.locator('x')}:1', platform='linux/amd64').explore()"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code],
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "c")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert "etc/" in done.stdout
    assert "VBox" not in done.stdout


def test_with_a_front_end_it_is_a_widget(front_end: None, look: Callable[..., Image]) -> None:
    """And a page beside it, for those who read the notebook without a kernel."""
    del front_end
    bundle = look("1").explore()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "etc/" in Page(bundle["text/html"]).text
    assert bundle["text/plain"].startswith("<ImageExplorer")


# Tags


def tags_of(registry: Registry, repository: str) -> TagExplorer:
    """Return the explorer of a repository."""
    remote = distsdk.connect(registry.locator(repository))
    return remote.explore()


def test_tags_are_explored(registry: Registry) -> None:
    """They are filtered and sorted by version; one is opened below, and others in the same widgets."""
    for tag in ("1.9", "1.10", "1.9-slim"):
        registry.add_image("tags", tag, layers=[layer({f"is-{tag}": b""})])
    registry.add_artifact("tags", "sbom", artifact_type="application/spdx+json", files={"a": b"{}"})
    e = tags_of(registry, "tags")
    by_class(e, "sort").value = "latest version first"
    assert ["1.10", "1.9-slim", "1.9", "sbom"] == rows(e)
    by_class(e, "filter").value = "slim"
    assert ["1.9-slim"] == rows(e)
    assert ":1.9-slim'" in Page(e._code.value).text
    e._open.click()
    assert e._image is not None
    assert ["is-1.9-slim"] == rows(e._image)
    count = len(widget_module._instances)
    by_class_of_tags = e._list.filter
    by_class_of_tags.value = "1.10"
    e._open.click()
    assert ["is-1.10"] == rows(e._image)
    by_class_of_tags.value = "sbom"
    e._open.click()
    assert "is not an image but an artifact" in Page(e._status.value).text
    assert count == len(widget_module._instances)


def test_tags_outside_of_a_kernel(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few are named, and how many there are; a repository that is not there says so."""
    monkeypatch.setattr(explorer, "TAG_LIMIT", 30)
    for number in range(40):
        registry.add_image("tags", f"v{number}", layers=[])
    e = tags_of(registry, "tags")
    assert "v0" in str(e)
    assert "… and 10 more, and others that were not read" in str(e)
    assert "… and 10 more" in Page(e._repr_html_()).text
    assert "more tags than are listed" in text(e, "status")
    gone = tags_of(registry, "nothing")
    assert "not found" in str(gone)
    assert "not found" in Page(gone._repr_html_()).text


# Differences


def test_a_diff_is_explored(registry: Registry, look: Callable[..., Image]) -> None:
    """Part by part, and by kind of change; what was selected is told in full."""
    registry.add_image(
        "x", "2", layers=[LOWER, layer({"etc/new": b"newer", "<b>": b""})], config={"config": {"User": "<i>"}}
    )
    e = look("1").diff(look("2")).explore()
    check(e)
    part, what = by_class(e, "part"), by_class(e, "change")
    assert "file" == part.value
    assert ["/<b>", "/etc/gone", "/etc/new", "/etc/other"] == rows(e)
    what.value = "added"
    assert ["/<b>", "/etc/gone"] == rows(e)
    what.value = "changed"
    by_class(e, "row").value = 1
    assert "/etc/new" in text(e, "about")
    assert "3 bytes" in text(e, "about")
    part.value = "setting"
    what.value = ""
    assert "User" in rows(e)
    part.value = "step"
    assert 3 == len(rows(e))
    assert ".history" in text(e, "code")
    part.value = "layer"
    assert 2 == len(rows(e))
    assert "2 " not in rows(e)
    assert "files" in str(e)
    assert repr(e).startswith("<DiffExplorer 127.0.0.1")
    assert "Diff" in e._repr_html_()


# What comes into a store


def test_a_store_is_watched(front_end: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table follows what is ingested, from the event loop of the kernel, until it is stopped."""
    del front_end
    monkeypatch.setattr(widgets, "_PERIOD", 0.001)
    store = distsdk.Store(tmp_path / "<store>")
    begun, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"x" * 3_000_000
        begun.set()
        assert go_on.wait(60)
        yield b"y"

    thread = threading.Thread(target=lambda: store.ingest(chunks(), "<key>", expected_size=3_000_001))

    async def until(watch: Any, words: str) -> None:  # noqa: ANN401 - a Watch
        for _ in range(20_000):
            if words in text(watch, "ingests"):
                return
            await asyncio.sleep(0.001)
        raise AssertionError(text(watch, "ingests"))

    async def main() -> None:
        watch = store.watch()
        assert "application/vnd.jupyter.widget-view+json" in watch._repr_mimebundle_()
        assert watch.watching
        assert "0 ingests under way" in text(watch, "ingests")
        thread.start()
        await asyncio.to_thread(begun.wait, 60)
        await until(watch, "<key>")
        assert "1 ingest under way" in text(watch, "ingests")
        assert re.search(r"\d% of ", text(watch, "ingests"))
        assert "<key>" in str(watch)
        go_on.set()
        await until(watch, "0 ingests under way")
        by_class(watch, "stop").click()
        assert by_class(watch, "stop").disabled

    try:
        asyncio.run(main())
    finally:
        go_on.set()
        thread.join()


def test_a_watch_without_a_front_end_shows_what_is(tmp_path: Path) -> None:
    """Once: nothing goes on behind it."""
    watch = distsdk.Store(tmp_path / "store").watch()
    assert {"text/plain", "text/html"} == watch._repr_mimebundle_().keys()
    assert "0 ingests under way" in str(watch)
    assert not watch.watching


# Parts


def test_versions_are_sorted_as_people_do() -> None:
    """By the numbers in them; numbers that are too long to be any do no harm."""
    tags = ["1.9", "1.10", "latest", "1.10-rc1", "2", "9" * 5000, "²"]
    found = sorted(tags, key=explorer._Version)
    assert found.index("2") < found.index("1.10-rc1") < found.index("1.10") < found.index("1.9")
    assert sorted(tags) == sorted(found)


def test_before_anything_is_selected(look: Callable[..., Image]) -> None:
    """There is nothing to open; unknown orders are no orders."""
    files = explorer.FilesView(look("1"))
    with pytest.raises(NotFound, match="select"):
        files.open()
    with pytest.raises(KeyError):
        files.listing.order = "nothing"
    with pytest.raises(NotFound, match="not known yet"):
        files.go("/")
