"""The merged tree, held against unpacked directories and the kernel's idea of paths."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.errors import DistError, LimitExceeded, MalformedDocument, NotFound, Unsafe
from distsdk.layers.member import Kind, Member
from distsdk.layers.merged import MAX_LINKS, Entry, Overlay
from distsdk.layers.unpack import unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distsdk.layers.layer import MemberFile

is_root = pytest.mark.skipif(not hasattr(os, "chroot") or os.geteuid() != 0, reason="chroot takes root")


@define(eq=False)
class Layer:
    """A layer that counts how often somebody wanted to know what is in it."""

    entries: Sequence[Member]
    touched: int = 0
    opened: list[bytes] = field(factory=list)

    @property
    def members(self) -> Sequence[Member]:
        """Its entries."""
        self.touched += 1
        return self.entries

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Return the name as content."""
        assert member in self.entries
        self.opened.append(member.path)
        return cast("MemberFile", io.BytesIO(member.path + b" strict" * strict))


def member(text: str) -> Member:
    """Return the entry that a line describes: ``d name``, ``f name``, ``s name target``, ``h name target``."""
    kind, path, *link = text.split()
    kinds = {"d": Kind.FOLDER, "f": Kind.FILE, "s": Kind.SYMLINK, "h": Kind.HARD_LINK, "p": Kind.FIFO}
    return Member(path=os.fsencode(path), kind=kinds[kind], link=os.fsencode("".join(link)))


def layers(*lines: str) -> list[Layer]:
    """Return layers, the lowest first: entries are divided by commas."""
    return [Layer([member(entry) for entry in line.split(",") if entry.strip()]) for line in lines]


def tree(overlay: Overlay) -> dict[str, int]:
    """Return all paths, and the layer of each."""
    return {entry.path: entry.layer for entry in overlay.walk()}


# What image-spec says


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["f a", "f b"], {"/a": 0, "/b": 1}),
        (["f a", "f a"], {"/a": 1}),
        (["d d,f d/a", "d d,f d/b"], {"/d": 1, "/d/a": 0, "/d/b": 1}),
        (["d d,f d/a", "f d/b"], {"/d": 0, "/d/a": 0, "/d/b": 1}),
        (["f d/a"], {"/d": 0, "/d/a": 0}),
        (["f a,f b", "f .wh.a"], {"/b": 0}),
        (["f a", "f .wh.b"], {"/a": 0}),
        (["f a", "f .wh.a", "f a"], {"/a": 2}),
        (["d d,f d/a,f d/b", "d d,f d/.wh.a"], {"/d": 1, "/d/b": 0}),
        (["d d,f d/a,d d/e,f d/e/b", "f .wh.d"], {}),
        (["d d,f d/a,f d/b", "d d,f d/.wh..wh..opq,f d/c"], {"/d": 1, "/d/c": 1}),
        (["d d,f d/a,f d/b", "d d,f d/c,f d/.wh..wh..opq"], {"/d": 1, "/d/c": 1}),
        (["f a,d d,f d/b", "f .wh..wh..opq,f c"], {"/c": 1}),
        # An entry of the same layer survives its own layer's whiteout, whichever comes first.
        (["f a", "f a,f .wh.a"], {"/a": 1}),
        (["f a", "f .wh.a,f a"], {"/a": 1}),
        (["d d,f d/a,f d/b", "d d,f d/b,f .wh.d"], {"/d": 1, "/d/b": 1}),
        (["d d,f d/a,f d/b", "f .wh.d,d d,f d/b"], {"/d": 1, "/d/b": 1}),
        (["d d,f d/a,f d/b", "f d/b,f .wh.d"], {"/d": 0, "/d/b": 1}),
        # A type that changes hides all that was below.
        (["d d,f d/a", "f d"], {"/d": 1}),
        (["d d,f d/a", "s d /x"], {"/d": 1}),
        (["f d", "d d,f d/a"], {"/d": 1, "/d/a": 1}),
        (["d d,f d/a", "f d", "d d,f d/b"], {"/d": 2, "/d/b": 2}),
        (["d t,s d t", "d d,f d/a"], {"/d": 1, "/d/a": 1, "/t": 0}),
        # Symbolic links lead to places inside the root when they are used.
        (["d t,s d t", "f d/a"], {"/d": 0, "/t": 0, "/t/a": 1}),
        (["d t,s d /t", "f d/a"], {"/d": 0, "/t": 0, "/t/a": 1}),
        (["d t,s d ../../t", "f d/a"], {"/d": 0, "/t": 0, "/t/a": 1}),
        (["d t,f t/a,s d t", "f d/.wh.a"], {"/d": 0, "/t": 0}),
        (["d t,s d t,f d/a"], {"/d": 0, "/t": 0, "/t/a": 0}),
        (["s d t", "f d/a"], {"/d": 0, "/t": 1, "/t/a": 1}),
        (["d t,s d t", "f d/a", "d d"], {"/d": 2, "/t": 0, "/t/a": 1}),
        # Names.
        (["f ./a,f /b,f ./d//c"], {"/a": 0, "/b": 0, "/d": 0, "/d/c": 0}),
        (["f .wh..wh.plnk/1.2,f a"], {"/a": 0}),
        (["d ."], {}),
        ([""], {}),
        ([], {}),
    ],
)
def test_layers_are_put_on_each_other(lines: list[str], expected: dict[str, int]) -> None:
    """By image-spec's rules; and each path is found from the top with the same outcome."""
    assert expected == tree(Overlay(layers(*lines)))
    for path, number in expected.items():
        assert number == Overlay(layers(*lines)).which_layer(path)
    for path in {"/a", "/b", "/d", "/d/a", "/d/b", "/d/c", "/t/a"} - set(expected):
        overlay = Overlay(layers(*lines))
        if any(entry.member.kind is Kind.SYMLINK for entry in overlay.walk()):
            continue
        with pytest.raises(NotFound):
            Overlay(layers(*lines)).stat(path)


@pytest.mark.parametrize(
    "text", ["f ../a", "f a/../b", "d ..", "f .wh...", "f .wh..", "f .wh.", "f d/.wh...", "f .wh.a/b", "f ."]
)
def test_names_that_lead_elsewhere_are_refused(text: str) -> None:
    """For a listing and for a path that they have nothing to do with."""
    with pytest.raises(Unsafe):
        Overlay(layers("f x", text)).ls()
    with pytest.raises(Unsafe):
        Overlay(layers("f x", text)).stat("/x")


@pytest.mark.parametrize(
    "lines", [["f a", "f a/b"], ["f a,f a/b"], ["h a b"], ["d d,h a d"], ["p a,f a/b"], ["d d,f d/c,h d d/c"]]
)
def test_entries_that_cannot_be_are_refused(lines: list[str]) -> None:
    """Below a file, a link to nothing or to a folder: unpacking refuses them too."""
    with pytest.raises(MalformedDocument):
        Overlay(layers(*lines)).ls()
    with tempfile.TemporaryDirectory() as folder, pytest.raises((DistError, PermissionError)):
        unpack(list(map(archive, lines)), folder)


# From the top


@pytest.mark.parametrize(
    ("lines", "path", "touched"),
    [
        (["f x", "d etc,f etc/a", "f y"], "/y", [0, 0, 1]),
        (["f x", "d etc,f etc/a", "f y"], "/etc/a", [0, 1, 1]),
        (["f x", "d etc,f etc/a", "d etc,f etc/b"], "/etc/a", [0, 1, 1]),
        (["d etc,f etc/b", "f y", "f etc/a"], "/etc/a", [0, 0, 1]),
        (["d etc,f etc/a", "d etc", "f y"], "/etc", [0, 1, 1]),
        (["d etc,f etc/a", "f y", "f etc/b"], "/etc", [1, 1, 1]),
        (["f x", "d etc,s etc/l ../x", "f y"], "/etc/l", [1, 1, 1]),
        (["f x", "d d,s l d/a,f d/a", "f y"], "/l", [0, 1, 1]),
        (["f x", "f a", "h b a"], "/b", [0, 1, 1]),
        (["f x", "f a", "f a,h b a"], "/b", [0, 0, 1]),
        (["f x", "f d/a", "d e,h e/b d/a"], "/e/b", [0, 1, 1]),
    ],
)
def test_layers_below_the_one_that_decides_are_left_alone(lines: list[str], path: str, touched: list[int]) -> None:
    """Whether it is a file, a folder, or a link that leads somewhere."""
    found = layers(*lines)
    Overlay(found).stat(path)
    assert touched == [min(1, layer.touched) for layer in found]


@pytest.mark.parametrize(
    ("lines", "path", "touched"),
    [
        (["f a", "f .wh.a", "f y"], "/a", [0, 1, 1]),
        (["d d,f d/a", "d d,f d/.wh..wh..opq", "f y"], "/d/a", [0, 1, 1]),
        (["d d,f d/a", "f d", "f y"], "/d/a", [0, 1, 1]),
        (["d d,f d/a", "f .wh.d", "d d"], "/d/a", [0, 1, 1]),
        (["f .wh..wh..opq", "f .wh..wh..opq"], "/a", [0, 1]),
    ],
)
def test_what_is_gone_is_looked_for_no_further(lines: list[str], path: str, touched: list[int]) -> None:
    """A whiteout, an opaque folder and a file in the place of one end the search."""
    found = layers(*lines)
    with pytest.raises(NotFound):
        Overlay(found).stat(path)
    assert touched == [layer.touched for layer in found]


@pytest.mark.parametrize(
    ("lines", "path", "layer"),
    [
        # Entries that went through a link of a lower layer are found where they went.
        (["d usr,d usr/lib,s lib usr/lib", "f lib/a"], "/usr/lib/a", 1),
        (["d usr,d usr/lib,s lib usr/lib", "f lib/a"], "/lib/a", 1),
        (["d usr,d usr/lib,f usr/lib/a,s lib usr/lib", "f lib/a"], "/usr/lib/a", 1),
        (["d usr,d usr/lib,s lib usr/lib", "f lib/a/b"], "/usr/lib/a", 1),
        (["d y,s x y,d d,s d/x /y", "f d/x/a"], "/y/a", 1),
        # A folder that takes a link's place later does not take along what went through it.
        (["d usr,s lib usr", "f lib/a", "d lib"], "/usr/a", 1),
        (["d usr,s lib usr", "f usr/b", "d lib,f lib/b"], "/lib/b", 2),
    ],
)
def test_entries_behind_links(lines: list[str], path: str, layer: int) -> None:
    """As a runtime puts them, which unpacks layers one after the other."""
    assert layer == Overlay(layers(*lines)).which_layer(path)
    overlay = Overlay(layers(*lines))
    overlay.ls()
    assert layer == overlay.which_layer(path)


def test_a_whiteout_behind_a_link_removes_what_is_there() -> None:
    """And an opaque one all of it."""
    for mark in (".wh.a", ".wh..wh..opq"):
        lines = ["d usr,d usr/lib,f usr/lib/a,s lib usr/lib", f"f lib/{mark}"]
        for path in ("/usr/lib/a", "/lib/a"):
            with pytest.raises(NotFound):
                Overlay(layers(*lines)).stat(path)


# Paths


PATHS = [
    "d d,d d/e,f d/e/a,s abs /d/e,s rel d/e,s up d/../../../d,s d/self .,s d/back ../rel,s loop loop,"
    "s gone nowhere,s d/e/f a"
]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/d/e/a", "/d/e/a"),
        ("d/e/a", "/d/e/a"),
        ("//d/./e///a", "/d/e/a"),
        ("/", "/"),
        ("", "/"),
        ("/..", "/"),
        ("/d/e/..", "/d"),
        ("/abs/a", "/d/e/a"),
        ("/rel/a", "/d/e/a"),
        ("/rel/..", "/d"),
        ("/up/e/a", "/d/e/a"),
        ("/d/self/self/self/e", "/d/e"),
        ("/d/back/a", "/d/e/a"),
        ("/d/e/f", "/d/e/a"),
        ("/abs", "/d/e"),
    ],
)
def test_where_paths_lead(path: str, expected: str) -> None:
    """Links and ``..`` are followed inside the root."""
    for warm in (False, True):
        overlay = Overlay(layers(*PATHS))
        if warm:
            overlay.ls()
        assert expected == overlay.resolve(path)
        assert overlay.stat(expected).member == overlay.stat(path).member


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("/x", NotFound, "'/x' not found$"),
        ("/gone", NotFound, "lead to '/nowhere'"),
        ("/gone/..", NotFound, "nowhere"),
        ("/d/e/a/b", NotFound, "'/d/e/a' is not a directory"),
        ("/d/e/a/..", NotFound, "'/d/e/a' is not a directory"),
        ("/loop", LimitExceeded, "40 symbolic links"),
        ("/loop/a", LimitExceeded, "40 symbolic links"),
        ("/\x1b[2J", NotFound, r"\\x1b"),
    ],
)
def test_where_paths_lead_nowhere(path: str, error: type[DistError], match: str) -> None:
    """The message says where that was."""
    for warm in (False, True):
        overlay = Overlay(layers(*PATHS))
        if warm:
            overlay.ls()
        for call in (overlay.stat, overlay.resolve, overlay.open, overlay.ls, overlay.walk):
            with pytest.raises(error, match=match):
                call(path)


def test_links_that_lead_to_themselves_in_other_ways() -> None:
    """Each is bounded, however it is put."""
    lines = ["s a a/../x,s b c/..,s c b/..,s d ./d,s e ../../e/x," + ",".join(f"s l{n} l{n + 1}" for n in range(60))]
    for warm in (False, True):
        for path in ("/a", "/b", "/c", "/d", "/e", "/l0"):
            overlay = Overlay(layers(*lines))
            if warm:
                overlay.ls()
            with pytest.raises(LimitExceeded) as caught:
                overlay.stat(path)
            assert MAX_LINKS == caught.value.limit
    assert NotFound is type(error_of(Overlay(layers(*lines)), "/l25"))


def error_of(overlay: Overlay, path: str) -> DistError | None:
    """Return what looking at a path ends in."""
    try:
        overlay.stat(path)
    except DistError as error:
        return error
    return None


def test_a_link_itself() -> None:
    """Is what `stat` returns on request, and where `which_layer` looks."""
    overlay = Overlay(layers("f a", "s b a"))
    assert (Kind.SYMLINK, 1) == (overlay.stat("/b", follow_symlinks=False).member.kind, overlay.which_layer("/b"))
    assert ("/a", 0) == (overlay.stat("/b").path, overlay.stat("/b").layer)


def test_opening() -> None:
    """A file is read from the layer that has it: behind links, and under another name."""
    found = layers("f a,f d/x", "s l a,h d/h d/x")
    overlay = Overlay(found)
    for path, name in (("/a", b"a"), ("/l", b"a"), ("/d/h", b"d/x"), ("d/x", b"d/x")):
        assert name == overlay.open(path).read()
    assert b"a strict" == overlay.open("/a", strict=True).read()
    assert ([], 5) == (found[1].opened, len(found[0].opened))
    for path in ("/d", "/"):
        with pytest.raises(NotFound, match="directory"):
            overlay.open(path)


def test_a_hard_link_is_what_it_is_another_name_of() -> None:
    """Whatever becomes of the other name later."""
    lines = ["f a", "h b a,h c b", "f a,f .wh.b"]
    for warm in (False, True):
        overlay = Overlay(layers(*lines))
        if warm:
            overlay.ls()
        entry = overlay.stat("/c")
        assert (b"a", Kind.FILE, 1, True) == (entry.member.path, entry.member.kind, entry.layer, entry.hard_link)
        assert b"a" == overlay.open("/c").read()
        assert not overlay.stat("/a").hard_link


def test_listing_a_folder() -> None:
    """Sorted by name; a file is listed by itself."""
    overlay = Overlay(layers("d d,f d/b,f d/a,s l d", "d d,f d/c,f d/.wh.b"))
    assert ["/d/a", "/d/c"] == [entry.path for entry in overlay.ls("/l")]
    assert ["a", "c"] == [entry.name for entry in overlay.ls("d/")]
    assert ["/d", "/l"] == [entry.path for entry in overlay.ls()]
    assert ["/d/c"] == [entry.path for entry in overlay.ls("/d/c")]
    assert "" == Entry("/", member("d /"), 0).name


def test_walking() -> None:
    """Each folder before what is in it."""
    overlay = Overlay(layers("d b,f b/b,d b/a,f b/a/c,f a,s l b"))
    assert ["/a", "/b", "/b/a", "/b/a/c", "/b/b", "/l"] == [entry.path for entry in overlay.walk()]
    assert ["/b/a", "/b/a/c", "/b/b"] == [entry.path for entry in overlay.walk("/l")]
    assert [] == list(overlay.walk("/a"))


GLOBBED = (
    "d etc,f etc/a.conf,f etc/.b.conf,d etc/c,f etc/c/d.conf,f etc/c/[x],s etc/loop .,"
    "s lib usr/lib,d usr,d usr/lib,f usr/lib/z.so"
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/etc/*.conf", ["/etc/.b.conf", "/etc/a.conf"]),
        ("etc/?.conf", ["/etc/a.conf"]),
        ("**/*.conf", ["/etc/.b.conf", "/etc/a.conf", "/etc/c/d.conf"]),
        ("/etc/**", ["/etc", "/etc/.b.conf", "/etc/a.conf", "/etc/c", "/etc/c/[x]", "/etc/c/d.conf", "/etc/loop"]),
        ("**/c/**/d.conf", ["/etc/c/d.conf"]),
        ("**/**/*.so", ["/usr/lib/z.so"]),
        ("/lib/*", ["/lib/z.so"]),
        ("/*/z.so", ["/lib/z.so"]),
        ("/etc/loop/loop/a*", ["/etc/loop/loop/a.conf"]),
        ("/etc/c/../[ab].conf", ["/etc/a.conf"]),
        ("/etc/c/[[]x]", ["/etc/c/[x]"]),
        ("/etc/./a.conf", ["/etc/a.conf"]),
        ("/", ["/"]),
        ("/none/*", []),
        ("/etc/a.conf/*", []),
    ],
)
def test_globbing(pattern: str, expected: list[str]) -> None:
    """As in a shell, but for names with a dot in front."""
    assert expected == [entry.path for entry in Overlay(layers(GLOBBED)).glob(pattern)]


def test_names_of_other_bytes() -> None:
    """Are text with escapes outside, and the bytes they are inside."""
    name = os.fsdecode(b"\xff\xfe")
    overlay = Overlay([Layer([Member(path=b"d/\xff\xfe", kind=Kind.FILE)])])
    assert [f"/d/{name}"] == [entry.path for entry in overlay.ls("/d")]
    assert (f"/d/{name}", b"d/\xff\xfe") == (overlay.resolve(f"/d/{name}"), overlay.open(f"/d/{name}").read())
    assert [f"/d/{name}"] == [entry.path for entry in overlay.glob("/d/*")]


def test_a_very_deep_tree() -> None:
    """Deeper than Python's stack, thanks to links: nothing recurses."""
    path = b"/".join([b"d"] * 2000)
    members = [Member(path=path, kind=Kind.FOLDER), Member(path=b"l", kind=Kind.SYMLINK, link=path)]
    members += [Member(path=b"l/" + path, kind=Kind.FOLDER)]
    overlay = Overlay([Layer(members), Layer([Member(path=b".wh.l", kind=Kind.FILE)])])
    assert 4000 == sum(1 for _ in overlay.walk())
    gone = Overlay([Layer(members), Layer([Member(path=b".wh.d", kind=Kind.FILE)])])
    assert {"/l": 0} == tree(gone)


def test_what_a_layer_raises_is_raised() -> None:
    """Of several that are got at once, too; and nothing of it is remembered."""

    class Broken:
        """A layer that cannot be had at first."""

        def __init__(self) -> None:
            self.broken = True

        @property
        def members(self) -> list[Member]:
            """Fail once."""
            if self.broken:
                self.broken = False
                raise MalformedDocument("damaged")
            return [member("f b")]

        def open(self, member: Member, *, strict: bool = False) -> MemberFile:
            """Never."""
            raise AssertionError

    overlay = Overlay([*layers("f a", "f c"), Broken(), *layers("f d")])
    with pytest.raises(MalformedDocument, match="damaged"):
        overlay.ls()
    assert {"/a": 0, "/c": 1, "/b": 2, "/d": 3} == tree(overlay)


# Against unpacked directories


NAMES = ["a", "b", "c", "lib"]
name = st.sampled_from(NAMES)
path_names = st.lists(name, min_size=1, max_size=3).map("/".join)
targets = st.tuples(st.sampled_from(["", "/", "../", "../../", "./"]), path_names).map("".join)
lines = st.one_of(
    st.tuples(st.sampled_from("fffdd"), path_names).map(" ".join),
    st.tuples(st.just("s"), path_names, targets).map(" ".join),
    st.tuples(st.just("h"), path_names, path_names).map(" ".join),
    st.tuples(path_names, st.booleans()).map(
        lambda pair: f"f {pair[0]}/.wh..wh..opq" if pair[1] else "f " + "/.wh.".join(("/" + pair[0]).rsplit("/", 1))
    ),
)


def with_parents(entries: list[str]) -> list[str]:
    """Return entries with one for each folder they are in before them, as Docker and BuildKit write them."""
    found: dict[str, None] = {}
    for entry in entries:
        path = entry.split()[1].strip("/")
        for depth in range(1, path.count("/") + 1):
            found["d " + "/".join(path.split("/")[:depth])] = None
        found[entry] = None
    return list(found)


stacks = st.lists(
    st.tuples(st.lists(lines, max_size=5), st.booleans()).map(
        lambda pair: ",".join(with_parents(pair[0]) if pair[1] else pair[0])
    ),
    min_size=1,
    max_size=4,
)


def archive(line: str) -> bytes:
    """Return the layer that a line describes, as an archive; each file has its name as content."""
    file = io.BytesIO()
    types = {
        "f": tarfile.REGTYPE,
        "d": tarfile.DIRTYPE,
        "s": tarfile.SYMTYPE,
        "h": tarfile.LNKTYPE,
        "p": tarfile.FIFOTYPE,
    }
    with tarfile.open(fileobj=file, mode="w") as tar:
        for entry in line.split(","):
            if not entry:
                continue
            kind, path, *link = entry.split()
            info = tarfile.TarInfo(path.lstrip("/"))
            info.type, info.linkname, info.mode = types[kind], "".join(link), 0o755 if kind == "d" else 0o644
            content = info.name.encode() if kind == "f" else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def on_disk(root: Path) -> dict[str, tuple[int, str]]:
    """Return what is in a directory: kinds, and where links point or what files contain."""
    found = {}
    for path in root.rglob("*"):
        kind = stat.S_IFMT(path.lstat().st_mode)
        text = ""
        if stat.S_ISLNK(kind):
            text = os.readlink(path)  # noqa: PTH115 - which leaves it as it is
        elif stat.S_ISREG(kind):
            text = path.read_text()
        found[f"/{path.relative_to(root)}"] = (kind, text)
    return found


FORMATS = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


def in_memory(overlay: Overlay) -> dict[str, tuple[int, str]]:
    """Return the same of a merged tree."""
    found = {}
    for entry in overlay.walk():
        kind, text = entry.member.kind, ""
        if kind is Kind.SYMLINK:
            text = os.fsdecode(entry.member.link)
        elif kind is Kind.FILE:
            text = overlay.open(entry.path).read().decode().lstrip("/")
        found[entry.path] = (FORMATS[kind], text)
    return found


def by_kernel(root: Path, paths: list[str]) -> list[str]:
    """Return where paths really lead in a root, as the kernel says in a chroot; an empty text for nowhere."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chroot(root)
            os.chdir("/")
            found = []
            for path in paths:
                try:
                    Path(path).stat()
                    found.append(os.path.realpath(path))
                except OSError:
                    found.append("")
            os.write(write, "\n".join(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:  # noqa: PTH123 - a descriptor
        data = pipe.read()
    os.waitpid(child, 0)
    return data.decode().split("\n") if paths else []


def outcome(overlay: Overlay, path: str, *, follow: bool) -> Any:  # noqa: ANN401 - compared as a whole
    """Return all that a merged tree says about a path."""
    try:
        entry = overlay.stat(path, follow_symlinks=follow)
        real = overlay.resolve(path) if follow else ""
    except (NotFound, LimitExceeded) as error:
        return type(error)
    return entry.member, entry.layer, entry.hard_link, real


@pytest.mark.slow
@is_root
@settings(max_examples=200)
@given(
    stacks,
    st.lists(
        st.lists(st.sampled_from([*NAMES, ".."]), min_size=1, max_size=5).map(lambda p: "/" + "/".join(p)), max_size=6
    ),
)
def test_the_merged_tree_is_what_unpacking_makes(stack: list[str], paths: list[str]) -> None:
    """Entry by entry; what one refuses, the other refuses; and paths lead where they lead in a chroot.

    A path that is looked up by itself, from the top, has the same outcome as in the tree of all layers.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            unpack([archive(line) for line in stack], root)
            refused = False
        except (DistError, PermissionError):  # the latter for a hard link to a folder
            refused = True
        overlay = Overlay(layers(*stack))
        try:
            overlay.ls()
        except DistError:
            assert refused
            return
        assert not refused
        found = on_disk(root)
        assert found == in_memory(overlay)
        paths = [*paths, *found, *(f"{path}/{name}" for path in found for name in NAMES[:2])]
        for path, real in zip(paths, by_kernel(root, paths), strict=True):
            expected = outcome(overlay, path, follow=True)
            assert real == (expected[-1] if isinstance(expected, tuple) else "")
            for follow in (True, False):
                assert outcome(overlay, path, follow=follow) == outcome(Overlay(layers(*stack)), path, follow=follow)


@pytest.mark.slow
def test_a_hundred_thousand_entries() -> None:
    """Take no more than some 200 bytes each, members not counted."""
    import tracemalloc

    entries = [Member(path=b"d%d" % number, kind=Kind.FOLDER) for number in range(1000)]
    entries += [Member(path=b"d%d/f%d" % (number % 1000, number), kind=Kind.FILE) for number in range(99_000)]
    tracemalloc.start()
    overlay = Overlay([Layer(entries)])
    assert 100_000 == sum(1 for _ in overlay.walk())
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000_000
    assert peak < 80_000_000
