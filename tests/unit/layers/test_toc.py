"""Tables of contents: real ones (tests/data/layers, by ctr-remote 0.12 and skopeo 1.9), and hostile ones."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, evolve, field
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.errors import DigestMismatch, DistError, IntegrityError, LimitExceeded, MalformedDocument
from distsdk.layers import toc
from distsdk.layers.member import Kind
from distsdk.layers.toc import FOOTER, Chunk, Toc, TocLocation, locate, read_toc, unpack_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DATA = Path(__file__).parents[2] / "data" / "layers"
DESCRIPTORS: dict[str, dict[str, Any]] = json.loads((DATA / "descriptors.json").read_text())
REAL = list(DESCRIPTORS)
TYPES = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.FIFOTYPE: Kind.FIFO,
}


@define
class Layer:
    """A layer in memory that takes down what it is asked."""

    data: bytes
    annotations: Mapping[str, str] = field(factory=dict)
    asked: list[tuple[int, int]] = field(factory=list)

    def read(self, start: int, end: int) -> bytes:
        """Return a range."""
        self.asked.append((start, end))
        assert 0 <= start < end <= len(self.data)
        return self.data[start:end]

    def toc(self) -> Toc:
        """Return its table of contents."""
        place = locate(self.annotations, len(self.data), self.read)
        assert place is not None
        return read_toc(place, self.read)


def real(name: str) -> Layer:
    """Return a layer that another tool has made."""
    return Layer((DATA / name).read_bytes(), DESCRIPTORS[name]["annotations"])


def archive(layer: Layer) -> tarfile.TarFile:
    """Return what a layer unpacks to, by other code than the one under test."""
    if layer.data[:2] == b"\x1f\x8b":
        return tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.data)))
    return tarfile.open(fileobj=io.BytesIO(zstd.decompress(layer.data)))


def content(table: Toc, path: bytes, data: bytes) -> bytes:
    """Return a file, put together from its chunks."""
    return b"".join(
        bytes(chunk.size) if chunk.zeros else unpack_chunk(chunk, data[chunk.start : chunk.end], table.compression)
        for chunk in table.chunks(path)
    )


@pytest.mark.parametrize("name", REAL)
def test_a_real_table_says_what_the_archive_says(name: str) -> None:
    """Names, kinds, owners, modes, times, links, attributes and content are those that tarfile finds in the layer."""
    layer = real(name)
    table = layer.toc()
    members = {member.path: member for member in table.members}
    found = {entry.name.encode(): entry for entry in archive(layer) if entry.name != "stargz.index.json"}
    assert set(found) == set(members)
    for path, entry in found.items():
        member = members[path]
        assert TYPES[entry.type] is member.kind
        assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
        assert entry.linkname.encode() == member.link
        assert int(entry.mtime) == member.mtime // 10**9
        prefix = "SCHILY.xattr."
        xattrs = {
            key.removeprefix(prefix).encode(): value.encode("utf-8", "surrogateescape")
            for key, value in entry.pax_headers.items()
            if key.startswith(prefix)
        }
        assert xattrs == dict(member.xattrs)
        if member.kind is Kind.FILE:
            file = archive(layer).extractfile(entry.name)
            assert file is not None
            data = file.read()
            assert (len(data), data) == (member.size, content(table, path, layer.data))
            digest = table.digest(path)
            assert digest is None or f"sha256:{hashlib.sha256(data).hexdigest()}" == str(digest)
    assert {b"./usr/bin/tool", b"./usr/bin/tool2"} <= set(members)
    assert "./etc/conf.d/größe.conf".encode() in members
    assert {b"user.note": b"\xff\x00\x01"} == members[b"./etc/empty"].xattrs
    assert (True, True) == (table.verified, table.complete)


def test_skopeo_keeps_fractions_of_seconds() -> None:
    """ctr-remote does not."""
    assert {1783728000_123456789} == {member.mtime for member in real("zstd-chunked").toc().members}


@pytest.mark.parametrize(("name", "requests"), [("estargz", 2), ("zstd-chunked", 1), ("zstd-chunked-ctr-remote", 1)])
def test_a_listing_costs_footer_and_table(name: str, requests: int) -> None:
    """Where an annotation says where the table is, not even the footer."""
    layer = real(name)
    layer.toc()
    assert requests == len(layer.asked)
    assert sum(end - start for start, end in layer.asked) < len(layer.data) / 20


@pytest.mark.parametrize("name", REAL)
def test_without_annotation_the_table_is_found_and_unverified(name: str) -> None:
    """The footer tells where it is; nothing tells whether it is the right one."""
    layer = real(name)
    vouched = layer.toc()
    layer.annotations = {}
    table = layer.toc()
    assert not table.verified
    assert (vouched.members, vouched.tiles) == (table.members, table.tiles)


def test_newer_annotations_and_footers() -> None:
    """Since 2024 zstd:chunked has other annotations, and a footer of 64 bytes with tar-split data before it."""
    layer = real("zstd-chunked")
    prefix = "io.containers.zstd-chunked."
    newer = {key.replace(prefix, f"io.github.containers.{prefix[14:]}"): v for key, v in layer.annotations.items()}
    assert layer.toc() == evolve(layer, annotations=newer).toc()
    start, packed, size, _ = map(int, layer.annotations[f"{prefix}manifest-position"].split(":"))
    split = frame(b"tar-split")
    footer = struct.pack("<7Q", start, packed, size, 1, start + packed + 8, 9, 9) + b"GNUlInUx"
    data = layer.data[: start + packed] + split + frame(footer)
    assert FOOTER == len(frame(footer))
    assert evolve(Layer(data).toc(), verified=True) == layer.toc()


def frame(data: bytes) -> bytes:
    """Return a skippable frame of zstd."""
    return struct.pack("<II", 0x184D2A50, len(data)) + data


# Layers made here


def footer_of(offset: int, *, legacy: bool = False) -> bytes:
    """Return the footer of an eStargz layer."""
    text = b"%016xSTARGZ" % offset
    extra = text if legacy else b"SG" + struct.pack("<H", len(text)) + text
    header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra
    return header + b"\x01\0\0\xff\xff" + bytes(8)


def estargz(
    document: object,
    payload: bytes = bytes(100),
    *,
    legacy: bool = False,
    vouched: bool = True,
    name: str = "stargz.index.json",
) -> Layer:
    """Return an eStargz layer with a table of contents; a text is its JSON as it stands."""
    raw = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else json.dumps(document).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    data = payload + gzip.compress(file.getvalue()) + footer_of(len(payload), legacy=legacy)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return Layer(data, {toc.ESTARGZ_DIGEST: digest} if vouched else {})


def digest_of(data: bytes) -> str:
    """Return a digest as it stands in a table."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def one_file(**changes: object) -> dict[str, Any]:
    """Return a table with one file of 10 bytes at byte 5, changed."""
    entry = {"name": "a", "type": "reg", "size": 10, "offset": 5, "chunkDigest": digest_of(bytes(10)), **changes}
    return {"version": 1, "entries": [entry]}


def test_the_two_footers() -> None:
    """Of 51 bytes, and of 47 in the first version."""
    assert (51, 47) == (len(footer_of(1)), len(footer_of(1, legacy=True)))
    payload = bytes(5) + gzip.compress(bytes(10) + b"padding")
    for legacy in (False, True):
        layer = estargz(one_file(), payload, legacy=legacy)
        assert (True, bytes(10)) == (layer.toc().verified, content(layer.toc(), b"a", layer.data))


def test_small_files_that_share_a_member() -> None:
    """With innerOffset, several files lie one after the other in one gzip member (--estargz-min-chunk-size)."""
    files = {b"a": b"first", b"b": b"second one", b"c": b"3"}
    payload, entries, inner = bytes(7) + gzip.compress(b"".join(files.values())), [], 0
    for name, data in files.items():
        entries.append(
            {"name": name.decode(), "type": "reg", "size": len(data), "offset": 7, "chunkDigest": digest_of(data)}
        )
        entries[-1] |= {"innerOffset": inner} if inner else {}
        inner += len(data)
    layer = estargz({"version": 1, "entries": entries}, payload)
    assert files == {name: content(layer.toc(), name, layer.data) for name in files}


def test_names_keep_what_stands_before_them_and_lose_slashes_behind() -> None:
    """As those of archives."""
    entries = [
        {"name": "./", "type": "dir", "mode": 0o40755},
        {"name": "/usr/", "type": "dir", "userName": "root", "groupName": "wheel"},
        {"name": "/", "type": "dir"},
        {"name": "dev/null", "type": "char", "devMajor": 1, "devMinor": 3, "uid": 7, "modtime": ""},
    ]
    members = estargz({"version": 1, "entries": entries}).toc().members
    assert [b".", b"/usr", b"/", b"dev/null"] == [member.path for member in members]
    assert 0o755 == members[0].mode
    assert [b"", b"root", b"root", b""] == [member.uname for member in members]
    assert ((1, 3), Kind.CHARACTER_DEVICE, 0) == (members[3].device, members[3].kind, members[3].mtime)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:00.5+01:00", 5 * 10**8),
        ("2026-07-11T00:00:00.123456789Z", 1783728000_123456789),
        ("0001-01-01T00:00:00Z", -(2**63 - 1)),
        ("9999-12-31T23:59:59Z", 2**63 - 1),
    ],
)
def test_times(text: str, expected: int) -> None:
    """RFC 3339 to nanoseconds, within 64 bits as for archives."""
    (member,) = estargz(one_file(modtime=text), bytes(5) + gzip.compress(bytes(10))).toc().members
    assert expected == member.mtime


# What is refused


def second(**changes: object) -> dict[str, Any]:
    """Return the table of two files, the second one changed."""
    table = one_file()
    table["entries"].append({**table["entries"][0], "name": "b", "offset": 50, **changes})
    return table


def chunks(*parts: dict[str, object], size: int = 10) -> dict[str, Any]:
    """Return the table of a file in chunks."""
    table = one_file(size=size)
    first, *rest = parts
    table["entries"][0] |= first
    table["entries"] += [{"name": "a", "type": "chunk", "chunkDigest": digest_of(b""), **part} for part in rest]
    return table


HOSTILE: dict[str, object] = {
    "negative size": one_file(size=-1),
    "huge size": one_file(size=2**63),
    "size of digits": one_file(size="10"),
    "size with a point": one_file(size=10.0),
    "size that is true": one_file(size=True),
    "size that is null": one_file(size=None),
    "negative offset": one_file(offset=-5),
    "no offset": one_file(offset=0),
    "offset in the table": one_file(offset=100),
    "offset behind the layer": one_file(offset=2**62),
    "end before its start": one_file(endOffset=4),
    "end in the table": one_file(endOffset=101),
    "occurs twice": second(name="a"),
    "occurs twice, with a slash": second(name="a/", type="dir"),
    "same bytes twice": second(offset=5),
    "overlap": {"version": 1, "entries": [*one_file(endOffset=60)["entries"], *second()["entries"][1:]]},
    "overlap inside a member": second(offset=5, innerOffset=9),
    "chunk of no file": {"version": 1, "entries": [{"name": "a", "type": "chunk", "offset": 3}]},
    "chunk of a folder": {"version": 1, "entries": [{"name": "a", "type": "dir"}, {"name": "a", "type": "chunk"}]},
    "gap": chunks({"chunkSize": 4}, {"chunkOffset": 5, "offset": 20}),
    "chunks overlap": chunks({"chunkSize": 4}, {"chunkOffset": 3, "offset": 20}),
    "chunks too long": chunks({"chunkSize": 4}, {"chunkOffset": 4, "chunkSize": 7, "offset": 20}),
    "chunks too short": chunks({"chunkSize": 4}, {"chunkOffset": 4, "chunkSize": 5, "offset": 20}),
    "one chunk too short": one_file(chunkSize=9),
    "chunk after the end": chunks({"chunkSize": 10}, {"chunkOffset": 10, "offset": 20}),
    "unknown kind of chunk": one_file(chunkType="ones"),
    "unknown type": one_file(type="socket"),
    "no type": {"version": 1, "entries": [{"name": "a"}]},
    "no name": one_file(name=""),
    "name of a number": one_file(name=1),
    "zero byte": one_file(name="a\0b"),
    "long name": one_file(name="a/" * 2049),
    "half a surrogate pair": '{"version":1,"entries":[{"name":"\\ud800","type":"dir"}]}',
    "link to nothing": one_file(type="symlink"),
    "no time": one_file(modtime="yesterday"),
    "impossible time": one_file(modtime="2026-13-01T00:00:00Z"),
    "time of a number": one_file(modtime=1),
    "owner -1": one_file(uid=2**32 - 1),
    "xattrs of a list": one_file(xattrs=["user.a"]),
    "xattrs of no base64": one_file(xattrs={"user.a": "?"}),
    "xattrs of numbers": one_file(xattrs={"user.a": 1}),
    "another version": {"version": 2, "entries": []},
    "entries of an object": {"version": 1, "entries": {}},
    "entry of a list": {"version": 1, "entries": [[]]},
    "no entries": {"version": 1},
    "a list": [],
    "no JSON": "{",
    "nothing": "",
    "half of it": '{"version":1,"entries":[{"name":"a","type":"dir"}',
    "no comma": '{"version":1,"entries":[{"name":"a","type":"dir"} {"name":"b","type":"dir"}]}',
    "something behind": '{"version":1,"entries":[]} x',
    "entries twice": '{"entries":[],"entries":[{"name":"a","type":"dir"}]}',
    "name twice": '{"entries":[{"name":"a","name":"b","type":"dir"}]}',
    "not a number": '{"entries":[{"name":"a","type":"reg","size":NaN}]}',
    "many digits": '{"entries":[{"name":"a","type":"reg","size":' + "9" * 5000 + "}]}",
    "deep": '{"x":' + "[" * 100_000,
    "deep in an entry": '{"entries":[{"x":' + "[" * 100_000,
}


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tables_are_refused(document: object, vouched: bool) -> None:
    """With or without a digest that is right: nobody says that who wrote it meant well."""
    with pytest.raises(MalformedDocument, match="layer's table of contents"):
        estargz(document, vouched=vouched).toc()


@pytest.mark.slow
def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, entries, and the bytes of the table, each by its limit."""
    with pytest.raises(LimitExceeded, match="chunk") as caught:
        estargz(one_file(size=2**40)).toc()
    assert toc.MAX_CHUNK == caught.value.limit
    with pytest.raises(LimitExceeded, match="chunk"):
        estargz(one_file(innerOffset=2**40)).toc()
    with pytest.raises(LimitExceeded, match="entries"):
        estargz('{"version":1,"entries":[' + "{}," * (toc.MAX_ENTRIES + 1)).toc()
    with pytest.raises(LimitExceeded, match="entries"):
        estargz('{"version":1,"x":[' + "257," * (toc.MAX_VALUES + 1)).toc()
    monkeypatch.setattr(toc, "MAX_TOC", 2000)
    with pytest.raises(LimitExceeded, match="2000"):
        estargz(" " * 5000).toc()
    with pytest.raises(LimitExceeded, match="2000"):
        locate({"io.github.containers.zstd-chunked.manifest-position": "100:50:2001:1"}, 200, lambda *_: b"")


def test_a_hole_costs_no_memory() -> None:
    """Its size is what the table says, and it is in no range."""
    table = estargz(one_file(size=2**50, chunkType="zeros")).toc()
    (chunk,) = table.chunks(b"a")
    assert (2**50, True, 0, 0) == (chunk.size, chunk.zeros, chunk.start, chunk.end)


@pytest.mark.parametrize(
    "position",
    [
        "",
        "1:2:3",
        "1:2:3:4:5",
        "-1:2:3:1",
        "1:2:3:2",
        "0:2:3:1",
        "150:51:3:1",
        "1:0:3:1",
        "9" * 25 + ":1:1:1",
        "\uff11:2:3:1",
    ],
)
def test_impossible_positions_are_refused(position: str) -> None:
    """The annotation is the publisher's, and may say anything."""
    with pytest.raises(MalformedDocument):
        locate({"io.containers.zstd-chunked.manifest-position": position}, 200, lambda *_: b"")


@pytest.mark.parametrize("key", ["io.containers.zstd-chunked.manifest-checksum", toc.ESTARGZ_DIGEST])
def test_a_digest_that_is_none_is_refused(key: str) -> None:
    """It does not count as no digest."""
    layer = real("zstd-chunked" if "zstd" in key else "estargz")
    layer.annotations = {**layer.annotations, key: "sha256:00"}
    with pytest.raises(MalformedDocument, match="digest"):
        layer.toc()


@pytest.mark.parametrize("name", REAL)
def test_another_table_than_the_one_vouched_for_is_refused(name: str) -> None:
    """The digest in the annotation decides."""
    layer = real(name)
    other = digest_of(b"another")
    layer.annotations = {k: other if "digest" in k or "checksum" in k else v for k, v in layer.annotations.items()}
    with pytest.raises(DigestMismatch) as caught:
        layer.toc()
    assert other == caught.value.expected


def test_layers_without_a_table() -> None:
    """Ordinary ones, small ones, an empty one; and an eStargz layer whose table is elsewhere."""
    for data in (b"", b"x", gzip.compress(bytes(1000)), zstd.compress(bytes(1000)), bytes(10_240)):
        for said in ({}, {toc.ESTARGZ_DIGEST: digest_of(b"")}):
            assert locate(said, len(data), Layer(data).read) is None


def test_an_archive_of_another_name_is_refused() -> None:
    """The footer points to something that is no table."""
    with pytest.raises(MalformedDocument, match=r"stargz\.index\.json"):
        estargz(one_file(), name="other.json").toc()


def test_a_table_of_another_size_than_announced_is_refused() -> None:
    """The annotation has the size, too."""
    layer = real("zstd-chunked")
    key = "io.containers.zstd-chunked.manifest-position"
    start, packed, size, kind = layer.annotations[key].split(":")
    layer.annotations = {**layer.annotations, key: f"{start}:{packed}:{int(size) + 1}:{kind}"}
    with pytest.raises(MalformedDocument, match="expected"):
        layer.toc()


def damaged(data: bytes, at: int) -> bytes:
    """Return bytes with one bit of one of them changed."""
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


@pytest.mark.parametrize("name", REAL)
def test_a_wrong_bit_anywhere_in_a_table_is_refused(name: str) -> None:
    """Every byte of it, one after the other: never another table."""
    layer = real(name)
    place = locate(layer.annotations, len(layer.data), layer.read)
    assert place is not None
    right = read_toc(place, layer.read)
    for at in range(place.start, place.end):
        try:
            found = read_toc(place, Layer(damaged(layer.data, at)).read)
        except (DigestMismatch, MalformedDocument):
            continue
        # gzip's own header, checksum and padding can be wrong and the JSON right.
        assert ("gzip", right) == (place.compression, found), at


@pytest.mark.parametrize("name", REAL)
def test_a_wrong_bit_anywhere_in_a_chunk_is_refused(name: str) -> None:
    """Not one byte of it is returned; or the bit did not matter, and what is returned is right."""
    layer = real(name)
    table = layer.toc()
    for path in (b"./opt/07.txt", b"./etc/os-release"):
        right = content(table, path, layer.data)
        refused = 0
        for chunk in table.chunks(path):
            for at in range(chunk.start, chunk.end):
                try:
                    assert right == content(table, path, damaged(layer.data, at))
                except IntegrityError:
                    refused += 1
        assert refused > 20


def test_chunks_that_are_no_chunks() -> None:
    """Too short, not compressed, a bomb, another window: each is an error, and no more than the chunk is unpacked."""
    data = b"0123456789"
    chunk = Chunk(0, 10, 5, 40, 0, digest_of(data))
    assert data == unpack_chunk(chunk, gzip.compress(data + b"more"), "gzip")
    assert data == unpack_chunk(chunk, gzip.compress(data[:4]) + gzip.compress(data[4:]), "gzip")
    assert data == unpack_chunk(chunk, frame(b"skip") + zstd.compress(data), "zstd")
    with pytest.raises(IntegrityError, match="got 9 bytes"):
        unpack_chunk(chunk, gzip.compress(data[:9]), "gzip")
    with pytest.raises(IntegrityError, match="got 9 bytes"):
        unpack_chunk(chunk, zstd.compress(data[:9]), "zstd")
    for packed in (b"", b"x" * 35, gzip.compress(data)[:15], zlib.compress(data)):
        with pytest.raises(IntegrityError):
            unpack_chunk(chunk, packed, "gzip")
        with pytest.raises(IntegrityError):
            unpack_chunk(chunk, packed, "zstd")
    with pytest.raises(DigestMismatch):
        unpack_chunk(chunk, gzip.compress(bytes(50_000_000)), "gzip")
    large: dict[int, int] = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=large)
    with pytest.raises(IntegrityError, match=r"memory|window|large"):
        unpack_chunk(chunk, compressor.compress(data) + compressor.flush(), "zstd")
    with pytest.raises(MalformedDocument, match="digest"):
        unpack_chunk(evolve(chunk, digest="md5:00"), gzip.compress(data), "gzip")


def test_a_chunk_without_a_digest_is_told_apart() -> None:
    """The file's digest stands in where there is one chunk; where there are several, each needs its own."""
    digest = digest_of(bytes(10))
    assert digest == estargz(one_file(chunkDigest="", digest=digest)).toc().chunks(b"a")[0].digest
    assert not estargz(one_file(chunkDigest="")).toc().complete
    several = chunks({"chunkSize": 4, "digest": digest, "chunkDigest": ""}, {"chunkOffset": 4, "offset": 20})
    table = estargz(several).toc()
    assert [True, False] == [chunk.digest is None for chunk in table.chunks(b"a")]
    assert not table.complete


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["reg", "chunk", "dir"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["name", "type", "size", "offset", "chunkOffset", "chunkSize", "endOffset", "innerOffset", "mode"]
)
numbers = st.integers(0, 120) | st.sampled_from([2**31, 2**62])
entry = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "./a", "a/"]), "type": st.sampled_from(["reg", "chunk", "dir", "symlink"])},
    optional=dict.fromkeys(("size", "offset", "chunkOffset", "chunkSize", "endOffset", "innerOffset"), numbers)
    | {"linkName": st.just("a"), "chunkType": st.sampled_from(["", "zeros"])},
)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(entry | st.dictionaries(keys, values), max_size=5))
def test_whatever_stands_in_a_table(entries: list[dict[str, object]]) -> None:
    """It is refused with one of our errors, or its chunks tile each file, lie in the layer, and share no byte."""
    layer = estargz({"version": 1, "entries": entries}, vouched=False)
    try:
        table = layer.toc()
    except DistError:
        return
    seen: set[int] = set()
    for member in table.members:
        own = table.chunks(member.path)
        assert member.size == sum(chunk.size for chunk in own)
        assert [sum(chunk.size for chunk in own[:number]) for number in range(len(own))] == [c.offset for c in own]
        for chunk in own:
            if chunk.zeros:
                continue
            assert 0 < chunk.start < chunk.end <= 100
            if not chunk.inner:
                assert not seen & set(range(chunk.start, chunk.end))
                seen |= set(range(chunk.start, chunk.end))


def test_errors_of_reading_pass_through() -> None:
    """Whatever the network says is said by it."""

    def fail(start: int, end: int) -> bytes:
        raise IntegrityError(f"{start} {end}")

    calls: list[Callable[[], object]] = [
        lambda: locate({}, 100, fail),
        lambda: read_toc(TocLocation("gzip", 1, 50, None), fail),
    ]
    for call in calls:
        with pytest.raises(IntegrityError):
            call()


def test_xattrs_are_base64() -> None:
    """As Go writes bytes."""
    xattrs = {"security.capability": base64.b64encode(b"\x01\x00\x00\x02").decode()}
    (member,) = estargz(one_file(xattrs=xattrs)).toc().members
    assert {b"security.capability": b"\x01\x00\x00\x02"} == member.xattrs
