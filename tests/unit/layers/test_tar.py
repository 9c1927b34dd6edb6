"""Archives of all kinds are read as other tools read them; damaged ones are refused."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.errors import LimitExceeded, MalformedDocument, Unsafe
from distsdk.layers.compression import LayerLimits
from distsdk.layers.member import Kind, Member, Role, inside, place
from distsdk.layers.tar import index_tar, read_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

END = bytes(1024)
NS = 1_000_000_000


def read(data: bytes, *cuts: int, **limits: int) -> list[tuple[Member, bytes]]:
    """Return the members of an archive and what is stored of them; it comes in chunks that end at ``cuts``."""
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    chunks = [data[start:end] for start, end in pairwise(ends)]
    return [(member, b"".join(content)) for member, content in read_tar(chunks, limits=LayerLimits(**limits))]


def block(name: bytes = b"x", flag: bytes = b"0", *, size: int = 0, **fields: bytes) -> bytes:
    """Return a header of the ustar format; ``fields`` are put in as they are."""
    places: dict[str, tuple[int, int]] = {
        "mode": (100, 8),
        "uid": (108, 8),
        "gid": (116, 8),
        "size": (124, 12),
        "mtime": (136, 12),
        "link": (157, 100),
        "magic": (257, 8),
        "uname": (265, 32),
        "gname": (297, 32),
        "major": (329, 8),
        "minor": (337, 8),
        "prefix": (345, 155),
        "sparse": (386, 109),
    }
    values = {"mode": b"0000644", "magic": b"ustar\x0000", "size": b"%011o" % size, **fields}
    header = bytearray(512)
    header[: len(name)] = name
    header[156:157] = flag
    for field, value in values.items():
        start, length = places[field]
        assert len(value) <= length
        header[start : start + len(value)] = value
    return signed(bytes(header))


def signed(header: bytes) -> bytes:
    """Return a header with its sum put right."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def padded(data: bytes) -> bytes:
    """Return content as it stands in an archive."""
    return data + bytes(-len(data) % 512)


def file(data: bytes = b"", name: bytes = b"x", **fields: bytes) -> bytes:
    """Return a member that is a file."""
    return block(name, size=len(data), **fields) + padded(data)


def record(key: str, value: bytes) -> bytes:
    """Return a record of a pax header."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def pax(*records: bytes, flag: bytes = b"x", **values: bytes) -> bytes:
    """Return a pax header."""
    data = b"".join(records) + b"".join(record(key, value) for key, value in values.items())
    return block(b"pax", flag, size=len(data)) + padded(data)


def only(data: bytes) -> Member:
    """Return the member of an archive that has one."""
    [(member, _)] = read(data + END)
    return member


# As other tools read

names = st.lists(
    st.binary(min_size=1, max_size=120).map(lambda b: b.translate(None, b"\0/")).filter(lambda b: b.strip(b".")),
    min_size=1,
    max_size=3,
).map(b"/".join)

infos = st.fixed_dictionaries(
    {
        "name": names,
        "type": st.sampled_from(
            [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
        ),
        "linkname": names,
        "data": st.binary(max_size=1500),
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 2**32 - 2),
        "gid": st.integers(0, 2**21),
        "mtime": st.integers(-(2**33), 2**33) | st.floats(0, 2**33).map(lambda number: round(number, 2)),
        "uname": st.text(max_size=10, alphabet="abcé"),
        "devmajor": st.integers(0, 4095),
    }
)


def made(members: list[dict[str, Any]], form: int) -> bytes:
    """Return an archive that `tarfile` writes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for fields in members:
            info = tarfile.TarInfo()
            for field, value in fields.items():
                if field != "data":
                    setattr(info, field, os.fsdecode(value) if field in {"name", "linkname"} else value)
            data = fields["data"] if info.isreg() else b""
            info.size = len(data)
            if not (info.issym() or info.islnk()):
                info.linkname = ""
            if form == tarfile.GNU_FORMAT:
                info.mtime = int(info.mtime)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def by_tarfile(data: bytes) -> list[tuple[object, ...]]:
    """Return what `tarfile` makes of an archive."""
    found: list[tuple[object, ...]] = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            opened = tar.extractfile(info) if info.isreg() else None
            link = info.linkname if info.issym() or info.islnk() else ""
            device = (info.devmajor, info.devminor) if info.isdev() and not info.isfifo() else (0, 0)
            found.append(
                (
                    *(
                        os.fsencode(info.name),
                        info.type.replace(b"\0", b"0"),
                        info.mode,
                        info.uid,
                        info.gid,
                        info.uname.encode(),
                    ),
                    *(round(info.mtime * 100), os.fsencode(link), device, opened.read() if opened else b""),
                )
            )
    return found


def by_us(data: bytes, *cuts: int) -> list[tuple[object, ...]]:
    """Return what we make of it, in the same form."""
    return [
        (
            *(member.path, member.kind.value.encode(), member.mode, member.uid, member.gid, member.uname),
            *(round(member.mtime / (NS / 100)), member.link, member.device, content),
        )
        for member, content in read(data, *cuts)
    ]


@pytest.mark.slow
@settings(max_examples=150)
@given(
    members=st.lists(infos, max_size=5),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_archives_of_python(members: list[dict[str, Any]], form: int, cuts: list[int]) -> None:
    """Names of any bytes and length, links, large owners, times before 1970, fractions: as `tarfile` reads them."""
    data = made(members, form)
    assert len(members) == len(by_us(data))
    assert by_tarfile(data) == by_us(data, *cuts)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what archives hold."""
    root = tmp_path_factory.mktemp("tree")
    chance = random.Random(5)
    (root / "folder" / ("long" * 30) / ("name" * 30)).mkdir(parents=True)
    (root / "folder" / ("long" * 30) / ("name" * 30) / ("file" * 20)).write_bytes(b"far down")
    for size in (0, 1, 511, 512, 513, 70_000):
        (root / f"{size}").write_bytes(chance.randbytes(size))
    (root / "hard").hardlink_to(root / "512")
    (root / "link").symlink_to("../" * 3 + "far/away")
    (root / "far").symlink_to("a" * 300)
    os.mkfifo(root / "fifo")
    (root / "setuid").touch()
    (root / "setuid").chmod(0o6755)
    for name, parts in (("sparse", 3), ("very-sparse", 60)):
        with (root / name).open("wb") as sparse:
            for number in range(parts):
                sparse.seek(number * 2**18 + 2**16)
                sparse.write(chance.randbytes(5000 + number))
            sparse.truncate(parts * 2**18)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number * 10**9 + 123_456_789), follow_symlinks=False)
    return root


def content(member: Member, stored: bytes) -> bytes:
    """Return a file with its holes."""
    if not member.parts:
        return stored
    whole, at = bytearray(member.size), 0
    for offset, length in member.parts:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(whole)


SPARSE = {
    "gnu --sparse": ("tar", "--format=gnu", "--sparse"),
    "oldgnu --sparse": ("tar", "--format=oldgnu", "--sparse"),
    **{
        f"posix, sparse {version}": ("tar", "--format=posix", "--sparse", f"--sparse-version={version}")
        for version in ("0.0", "0.1", "1.0")
    },
    "bsdtar pax, sparse": ("bsdtar", "--format=pax", "--read-sparse"),
}
TOOLS = {
    "gnu": ("tar", "--format=gnu"),
    "posix": ("tar", "--format=posix"),
    "bsdtar pax": ("bsdtar", "--format=pax", "--no-read-sparse"),
    "bsdtar gnutar": ("bsdtar", "--format=gnutar", "--no-read-sparse"),
    **SPARSE,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_archives_of_tools(tool: str, tree: Path) -> None:
    """What GNU tar and bsdtar write of a folder is that folder again, sparse files in all their formats included."""
    command = TOOLS[tool]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    data = subprocess.run([*command, "-c", "-f", "-", "-C", tree, "."], stdout=subprocess.PIPE, check=True).stdout
    found = {inside(member.path): (member, stored) for member, stored in read(data, *range(0, len(data), 10_007))}
    expected = {os.fsencode(path.relative_to(tree)): path for path in tree.rglob("*")}
    assert expected.keys() | {b""} == found.keys()
    exact = "posix" in tool or "pax" in tool
    for name, path in expected.items():
        member, stored = found[name]
        status = path.lstat()
        assert stat.S_IMODE(status.st_mode) == member.mode or member.kind is Kind.SYMLINK
        assert (status.st_uid, status.st_gid) == (member.uid, member.gid)
        assert (status.st_mtime_ns if exact else status.st_mtime_ns // NS * NS) == member.mtime
        if member.kind is Kind.HARD_LINK:
            assert path.samefile(tree / os.fsdecode(inside(member.link)))
        elif path.is_symlink():
            assert (Kind.SYMLINK, os.fsencode(path.readlink())) == (member.kind, member.link)
        elif path.is_dir():
            assert Kind.FOLDER is member.kind
        elif path.is_fifo():
            assert Kind.FIFO is member.kind
        else:
            assert (Kind.FILE, status.st_size, len(stored)) == (member.kind, member.size, member.stored)
            assert path.read_bytes() == content(member, stored)
    assert (tool in SPARSE) is bool(found[b"very-sparse"][0].parts)
    assert stat.S_ISDIR(tree.stat().st_mode)


@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_old_formats(form: str, tmp_path: Path) -> None:
    """The two oldest formats, with what they can hold."""
    (tmp_path / ("p" * 90 if form == "ustar" else "p")).mkdir()
    [folder] = tmp_path.iterdir()
    (folder / ("f" * 60)).write_bytes(b"data")
    (folder / "link").symlink_to("f")
    command: list[str | Path] = ["tar", f"--format={form}", "-c", "-f", "-", "-C", tmp_path, folder.name]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert by_tarfile(data) == by_us(data)
    kinds = {member.path.rpartition(b"/")[2]: member.kind for member, _ in read(data)}
    expected = {folder.name.encode(): Kind.FOLDER, b"f" * 60: Kind.FILE, b"link": Kind.SYMLINK}
    assert expected == kinds


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes are Linux's")
@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_extended_attributes_of_tools(tool: str, tmp_path: Path) -> None:
    """Attributes of any bytes are read as they were set."""
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    path = tmp_path / "x"
    path.touch()
    values = {b"user.text": b"value", b"user.bytes": bytes(range(256)), b"user.lines": b"a\n9 b=c\n"}
    try:
        for name, value in values.items():
            os.setxattr(path, name, value)
    except OSError:
        pytest.skip("this file system has no extended attributes")
    options = ["--xattrs"] if tool == "tar" else ["--format=pax", "--xattrs"]
    command: list[str | Path] = [tool, *options, "-c", "-f", "-", "-C", tmp_path, "x"]
    member = only(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.rstrip(b"\0") + bytes(1024 + 512))
    assert values == member.xattrs


def test_an_index_has_the_members_and_the_digest(tree: Path) -> None:
    """Contents are where the members say, and the digest is the archive's, whatever the chunks."""
    data = subprocess.run(["tar", "-c", "-f", "-", "-C", tree, "."], stdout=subprocess.PIPE, check=True).stdout
    members, digest = index_tar(data[at : at + 1000] for at in range(0, len(data), 1000))
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == str(digest)
    for (member, stored), indexed in zip(read(data), members, strict=True):
        assert member == indexed
        assert stored == data[member.offset : member.offset + member.stored]


# Headers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"uid": b"0000017\0"}, {"uid": 15}),
        ({"uid": b"     17 "}, {"uid": 15}),
        ({"uid": b"17"}, {"uid": 15}),
        ({"uid": b"        "}, {"uid": 0}),
        ({"uid": b"77777777"}, {"uid": 0o77777777}),
        ({"uid": b"\x80\0\0\0\xff\xff\xff\xfe"}, {"uid": 2**32 - 2}),
        ({"mtime": b"77777777777\0"}, {"mtime": (8**11 - 1) * NS}),
        ({"mtime": b"\xff" * 12}, {"mtime": -NS}),
        ({"mtime": b"\x80" + b"\xff" * 11}, {"mtime": 2**63 - 1}),
        ({"mtime": b"\xc0" + b"\0" * 11}, {"mtime": 1 - 2**63}),
        ({"mode": b"0104755"}, {"mode": 0o4755}),
        ({"prefix": b"a/b"}, {"path": b"a/b/x"}),
        ({"prefix": b"a/b", "magic": b"ustar  \0"}, {"path": b"x"}),
        ({"prefix": b"a/b", "magic": b""}, {"path": b"x"}),
        ({"uname": b"me", "gname": b"us"}, {"uname": b"me", "gname": b"us"}),
        ({"uname": b"me", "magic": b""}, {"uname": b""}),
        ({"name": b"x//"}, {"path": b"x", "kind": Kind.FILE}),
        ({"name": b"x//", "flag": b"\0"}, {"path": b"x", "kind": Kind.FOLDER}),
        ({"name": b"///", "flag": b"5"}, {"path": b"/", "kind": Kind.FOLDER}),
        ({"flag": b"7"}, {"kind": Kind.FILE}),
        ({"flag": b"5", "size": b"00000000100"}, {"kind": Kind.FOLDER, "size": 0, "stored": 0}),
        ({"flag": b"3", "major": b"0000010", "minor": b"0000003"}, {"device": (8, 3)}),
        ({"flag": b"6", "major": b"0000010"}, {"device": (0, 0)}),
        ({"link": b"ignored"}, {"link": b""}),
    ],
)
def test_fields_of_a_header(fields: dict[str, Any], expected: dict[str, object]) -> None:
    """Numbers in octal and in base 256, prefixes, names, and the types of entries."""
    size = fields.pop("size", b"00000000000")
    member = only(block(**fields | {"name": fields.get("name", b"x")}) if size[-3:] == b"000" else sized(fields, size))
    assert expected == {name: getattr(member, name) for name in expected}


def sized(fields: dict[str, Any], size: bytes) -> bytes:
    """Return a header that names a size."""
    return block(**fields, size=int(size, 8))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (block(uid=b"0000019\0"), "number"),
        (block(uid=b"-000017\0"), "number"),
        (block(uid=b"+17"), "number"),
        (block(uid=b"1_7"), "number"),
        (block(uid=b"1 7"), "number"),
        (block(uid=b"0x17"), "number"),
        (block(uid=b"\xff" * 8), "number"),
        (block(uid=b"\x80\0\0\0\xff\xff\xff\xff"), "owner or group"),
        (block(gid=b"\x80\0\0\1\0\0\0\0"), "owner or group"),
        (block(flag=b"3", major=b"\x80" + b"\xff" * 7), "device"),
        (block(b""), "no name"),
        (block(flag=b"2"), "a link no target"),
        (block(flag=b"1"), "a link no target"),
        (block(b"x/", b"\0", size=1) + padded(b"1"), "directory has content"),
        *((block(flag=flag), "entry type") for flag in (b"V", b"M", b"D", b"N", b"A", b"8", b"X", b"\xff")),
        (b"x" + block()[1:512].replace(b"x", b"y", 1)[:-1] + b"\1", "header has a wrong checksum"),
        (bytes(512), "expected a second block"),
        (padded(b"no archive at all"), "number|checksum"),
    ],
)
def test_headers_that_are_refused(header: bytes, message: str) -> None:
    """A number that is none, an owner that means "leave it", a type of none, another sum; the message says where."""
    with pytest.raises(MalformedDocument, match=message) as caught:
        read(file(b"before") + header + file() + END)
    assert "near byte 1024" in str(caught.value)


def test_every_bit_of_a_header_counts() -> None:
    """A header in which one bit is another is refused; in the sum itself, zeros and spaces may stand for each other."""
    good = block(mtime=b"00000000001", uname=b"root")
    for at in {*range(512)} - {*range(148, 156)}:
        for bit in range(8):
            damaged = bytearray(good + END)
            damaged[at] ^= 1 << bit
            with pytest.raises(MalformedDocument):
                read(bytes(damaged))


def test_signed_sums_are_read() -> None:
    """Some tars of old added bytes as C's char."""
    header = block("é".encode())
    total = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 8 * 32
    assert "é".encode() == only(header[:148] + b"%06o\0 " % total + header[156:]).path


# The end


@pytest.mark.parametrize("zeros", [1024, 1536, 10240, 1025, 100_000])
@pytest.mark.parametrize("before", [b"", file(b"data")])
def test_the_end_is_two_blocks_and_zeros(before: bytes, zeros: int) -> None:
    """Records of any size, an archive without entries."""
    data = before + bytes(zeros)
    assert bool(before) == len(read(data)) == len(read(data, *range(0, len(data), 100)))


@pytest.mark.parametrize("data", [b"", file(b"data"), file(b"data") + bytes(512), file(b"data") + bytes(1023)])
def test_every_cut_is_an_error(data: bytes) -> None:
    """Without its end an archive was cut, also where it seems whole."""
    for end in {*range(0, len(data), 7), len(data)}:
        with pytest.raises(MalformedDocument, match=f"after {end} bytes"):
            read(data[:end])


def test_an_archive_that_is_vouched_for_may_end_with_a_member() -> None:
    """Where a digest says that nothing is missing, no end is needed; within a header or a content it was cut still."""
    data = file(b"data") + file(b"more")
    for end in range(len(data) + 1):
        members = read_tar([data[:end][at : at + 300] for at in range(0, end, 300)], vouched_for=True)
        if 516 <= end <= 1024 or 1540 <= end:
            assert [b"x"] * (1 if end <= 1024 else 2) == [member.path for member, _ in members]
        else:
            with pytest.raises(MalformedDocument, match=f"after {end} bytes"):
                list(members)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        file(b"data") + pax(path=b"long"),
        file(b"data") + block(b"long", b"L", size=4) + padded(b"long"),
        file(b"data") + bytes(512),
        file(b"data") + bytes(511),
    ],
)
def test_what_is_vouched_for_and_no_archive_is_refused(data: bytes) -> None:
    """No member at all, a header for one that does not come, half an end."""
    with pytest.raises(MalformedDocument):
        list(read_tar([data], vouched_for=True))


@pytest.mark.parametrize("after", [b"x", bytes(5000) + b"x", file(b"data") + END])
def test_nothing_follows_the_end(after: bytes) -> None:
    """What is behind it, other tools would not see, or would."""
    with pytest.raises(MalformedDocument, match="other data follows"):
        read(file() + END + after)


def test_the_end_is_none_in_the_middle() -> None:
    """A block of zeros alone is damage; extended headers without an entry are, too."""
    with pytest.raises(MalformedDocument, match="expected a second block"):
        read(file() + bytes(512) + file() + END)
    for header in (pax(path=b"x"), block(b"n", b"L", size=2) + padded(b"x\0")):
        with pytest.raises(MalformedDocument, match="end of the archive"):
            read(header + END)


# Extended headers


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ({"path": b"a/\xff/"}, {"path": b"a/\xff"}),
        ({"path": b""}, {"path": b"x"}),
        ({"uid": b"4294967294", "gid": b"7"}, {"uid": 2**32 - 2, "gid": 7}),
        ({"mtime": b"1.5"}, {"mtime": 1_500_000_000}),
        ({"mtime": b"1."}, {"mtime": NS}),
        ({"mtime": b"-1.5"}, {"mtime": -1_500_000_000}),
        ({"mtime": b"1.0000000019"}, {"mtime": NS + 1}),
        ({"mtime": b"-1.0000000011"}, {"mtime": -NS - 2}),
        ({"mtime": b"9" * 20}, {"mtime": 2**63 - 1}),
        ({"mtime": b"-" + b"9" * 20}, {"mtime": 1 - 2**63}),
        ({"uname": b"x" * 100, "hdrcharset": b"BINARY"}, {"uname": b"x" * 100}),
        (
            {"SCHILY.xattr.user.a": b"1=2\n", "SCHILY.xattr.user.b": b""},
            {"xattrs": {b"user.a": b"1=2\n", b"user.b": b""}},
        ),
        ({"comment": b"x", "vendor.thing": b"\0"}, {"xattrs": {}}),
    ],
)
def test_records(records: dict[str, bytes], expected: dict[str, object]) -> None:
    """Records take precedence over the header, unless they are empty; unknown ones are passed over."""
    member = only(pax(**records) + file())
    assert expected == {name: getattr(member, name) for name in expected}


def test_records_are_for_one_entry_and_global_ones_for_all_that_follow() -> None:
    """A global record stays until another one takes its place; an entry's own one is stronger."""
    data = (
        pax(uid=b"1", gid=b"2", flag=b"g")
        + file()
        + pax(uid=b"3")
        + file()
        + file()
        + pax(uid=b"", comment=b"git writes its commit here", flag=b"g")
        + file()
    )
    assert [(1, 2), (3, 2), (1, 2), (0, 2)] == [(member.uid, member.gid) for member, _ in read(data + END)]


def test_the_size_may_be_a_record() -> None:
    """Then it says where the next header is."""
    data = pax(size=b"600") + block(size=0) + padded(b"x" * 600) + file(name=b"next")
    assert [b"x" * 600, b""] == [content for _, content in read(data + END)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"5 a=\n", None),
        (b"7 a=b\n", "damaged"),
        (b"6 a=b\n6", "damaged"),
        (b"6 a=b", "damaged"),
        (b"6 a=bc", "damaged"),
        (b"6  =b\n", None),
        (b"5 =b\n", "damaged"),
        (b"6 abc\n", "damaged"),
        (b"-6 a=b\n", "damaged"),
        (b"+6 a=b\n", "damaged"),
        (b"0 a=b\n", "damaged"),
        (b" 6 a=b\n", "damaged"),
        (b"99999999999999999999999 a=b\n", "damaged"),
        (record("a\0", b"b"), "zero byte"),
        (record("path", b"a\0b"), "zero byte"),
        (record("linkpath", b"a\0b"), "zero byte"),
        (record("uid", b"-1"), "invalid number"),
        (record("uid", b"1x"), "invalid number"),
        (record("uid", b"4294967295"), "owner or group"),
        (record("size", b"0x10"), "invalid number"),
        (record("mtime", b"now"), "invalid time"),
        (record("mtime", b"1e9"), "invalid time"),
        (record("mtime", b"--1"), "invalid time"),
        (record("hdrcharset", b"EBCDIC"), "character set"),
    ],
)
def test_records_that_are_refused(data: bytes, message: str | None) -> None:
    """A length that does not fit, a value that its keyword cannot have."""
    archive = block(b"pax", b"x", size=len(data)) + padded(data) + file() + END
    if message is None:
        assert [b"x"] == [member.path for member, _ in read(archive)]
        return
    with pytest.raises(MalformedDocument, match=message):
        read(archive)


@pytest.mark.parametrize("key", ["path", "linkpath", "size", "GNU.sparse.map", "SCHILY.xattr.user.x"])
def test_what_is_no_matter_for_all_entries_is_refused(key: str) -> None:
    """Tools differ about a name that all entries have."""
    with pytest.raises(MalformedDocument, match="a global header must not set"):
        read(pax(record(key, b"1"), flag=b"g") + file() + END)


def test_long_names_of_two_kinds_are_refused() -> None:
    """Tools differ about which one counts."""
    long = block(b"././@LongLink", b"L", size=3) + padded(b"ab\0")
    assert b"ab" == only(long + file()).path
    link = block(b"././@LongLink", b"K", size=2) + padded(b"t\0")
    assert (b"ab", b"t") == ((found := only(link + long + block(flag=b"2", link=b"short"))).path, found.link)
    for headers in (long + pax(path=b"c"), pax(path=b"c") + long, long + long, pax(path=b"a") + pax(path=b"b")):
        with pytest.raises(MalformedDocument, match="two"):
            read(headers + file() + END)


# Sparse files


def sparse_map(*numbers: int) -> bytes:
    """Return the map that precedes the content in format 1.0."""
    return padded(b"".join(b"%d\n" % number for number in numbers))


def sparse_1_0(data: bytes, size: int = 100) -> bytes:
    """Return a sparse file of format 1.0."""
    records = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"%d" % size}
    return pax(**records) + file(data)


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        (sparse_map(1, 0, 5) + b"12345", 100, None),
        (sparse_map(0), 100, None),
        (sparse_map(2, 0, 5, 100, 0) + b"12345", 100, None),
        (sparse_map(1, 96, 5) + b"12345", 100, "exceed its size"),
        (sparse_map(2, 0, 5, 4, 5) + b"1234512345", 100, "overlap"),
        (sparse_map(2, 10, 5, 0, 5) + b"1234512345", 100, "overlap"),
        (sparse_map(1, 0, 5) + b"1234", 100, "another size than its stored bytes"),
        (sparse_map(1, 0, 5) + b"123456", 100, "another size than its stored bytes"),
        (sparse_map(3, 0, 5), 100, "map of a sparse file is damaged"),
        (sparse_map(10**19), 100, "map of a sparse file is damaged"),
        (padded(b"one\n"), 100, "map of a sparse file is damaged"),
        (padded(b"-1\n"), 100, "map of a sparse file is damaged"),
        (b"9" * 2048, 100, "map of a sparse file is damaged"),
        (b"", 100, "map of a sparse file is damaged"),
    ],
)
def test_maps_of_sparse_files(data: bytes, size: int, message: str | None) -> None:
    """Parts lie in the file, in order, and are what is stored."""
    archive = sparse_1_0(data, size) + file(b"next", b"next") + END
    if message is None:
        [(member, _), (_, following)] = read(archive)
        assert (size, b"next") == (member.size, following)
        return
    with pytest.raises(MalformedDocument, match=message):
        read(archive)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,4")], None),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,4")], None),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", b"0,4")], "damaged"),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,4,")], "damaged"),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,x")], "damaged"),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0")], "damaged"),
        ([("GNU.sparse.size", b"3"), ("GNU.sparse.map", b"0,4")], "exceed its size"),
        ([("GNU.sparse.map", b"0,4")], "invalid number"),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"0"), ("GNU.sparse.numbytes", b"4")], None),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.numbytes", b"4"), ("GNU.sparse.offset", b"0")], "damaged"),
        ([("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"0")], "damaged"),
        ([("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.size", b"9")], "unknown format"),
        ([("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"1"), ("GNU.sparse.realsize", b"9")], "unknown format"),
    ],
)
def test_maps_in_records(records: list[tuple[str, bytes]], message: str | None) -> None:
    """Formats 0.0 and 0.1 have their maps in records."""
    archive = pax(*(record(*pair) for pair in records)) + file(b"data") + END
    if message is None:
        [(member, _)] = read(archive)
        assert (9, ((0, 4),)) == (member.size, member.parts)
        return
    with pytest.raises(MalformedDocument, match=message):
        read(archive)


def test_old_maps() -> None:
    """GNU's first format has four parts in the header and goes on in blocks of their own; it needs GNU's magic."""
    entry = b"%011o\0%011o\0"
    first = b"".join(entry % (number * 10, 1) for number in range(4))
    more = b"".join(entry % (number * 10, 1) for number in range(4, 6)).ljust(504, b"\0") + bytes(8)
    map_: dict[str, Any] = {"sparse": first + b"\1" + b"%011o\0" % 100, "magic": b"ustar  \0"}
    [(member, stored)] = read(block(flag=b"S", size=6, **map_) + more + padded(b"123456") + END)
    assert (100, tuple((number * 10, 1) for number in range(6))) == (member.size, member.parts)
    assert b"123456" == stored
    with pytest.raises(MalformedDocument, match="not GNU's"):
        read(block(flag=b"S", size=6, **map_ | {"magic": b"ustar\x0000"}) + more + padded(b"123456") + END)
    with pytest.raises(MalformedDocument, match="two formats"):
        read(pax(record("GNU.sparse.size", b"1")) + block(flag=b"S", **map_) + more + END)


# Limits

ENDLESS = b"".join(b"%011o\0%011o\0" % (number, 0) for number in range(21)) + b"\1" + bytes(7)


@pytest.mark.parametrize(
    ("data", "limits", "name"),
    [
        (file() * 4, {"members": 3}, "members"),
        (pax(path=b"x" * 4097) + file(), {}, "path"),
        (pax(linkpath=b"x" * 4097) + block(flag=b"2"), {}, "path"),
        (block(b"n", b"L", size=5000) + padded(b"x" * 5000) + file(), {}, "path"),
        (block(b"n", b"x", size=2**20 + 1), {}, "header"),
        (block(b"n", b"L", size=2**33 - 1), {}, "header"),
        (pax(comment=b"x" * 900) * 1 + file() + pax(comment=b"x" * 900) + file(), {"headers": 1000}, "headers"),
        (block(size=1001), {"output": 1000}, "output"),
        (pax(size=b"9" * 20) + block(), {}, "output"),
        (sparse_1_0(sparse_map(0), 2**40), {}, "output"),
        (sparse_1_0(b"1" * 19 + b"\n" + b"1\n" * 2**20), {}, "header"),
        (
            block(flag=b"S", magic=b"ustar  \0", sparse=bytes(96) + b"\1") + ENDLESS * 2100,
            {},
            "header",
        ),
    ],
)
def test_limits(data: bytes, limits: dict[str, int], name: str) -> None:
    """Entries, names, headers and files are bounded before they are read; the message names the limit to raise."""
    with pytest.raises(LimitExceeded, match=rf"LayerLimits\({name}=") as caught:
        read(data + END, **limits)
    assert {**{field: getattr(LayerLimits(), field) for field in ("path", "header", "output")}, **limits}[
        name
    ] == caught.value.limit


# What is handed out


def test_what_is_not_taken_is_passed_over() -> None:
    """Some of a content, none, all; what is asked for too late is refused."""
    data = file(b"a" * 3000, b"1") + file(b"b" * 3000, b"2") + file(b"c" * 10, b"3") + END
    members = read_tar([data[at : at + 700] for at in range(0, len(data), 700)])
    _, first = next(members)
    assert b"a" == bytes(next(first))[:1]
    _, second = next(members)
    _, third = next(members)
    assert b"c" * 10 == b"".join(third)
    with pytest.raises(ValueError, match="next member"):
        next(second)


def test_content_is_not_copied() -> None:
    """Pieces are views of the chunks."""
    chunk = file(b"a" * 3000) + END
    [(_, pieces)] = [(member, list(content)) for member, content in read_tar([chunk])]
    assert [chunk] == [piece.obj for piece in pieces]


def test_the_archive_is_read_lazily() -> None:
    """An entry is there before the chunks after it."""

    def chunks() -> Iterator[bytes]:
        yield file(b"data")
        message = "asked for more"
        raise AssertionError(message)

    member, content = next(read_tar(chunks()))
    assert (b"x", b"data") == (member.path, b"".join(content))


# Names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a/b", b"a/b"),
        (b"./a/b", b"a/b"),
        (b"/a//b/./c/", b"a/b/c"),
        (b".//a", b"a"),
        (b"././a", b"a"),
        (b"./", b""),
        (b"", b""),
        (b".", b""),
        (b"/", b""),
        (b".a/..b/...", b".a/..b/..."),
        (b"a\\..\\b", b"a\\..\\b"),
    ],
)
def test_names_inside(path: bytes, expected: bytes) -> None:
    """Absolute names and dots are brought into one form."""
    assert expected == inside(path) == inside(inside(path))


@pytest.mark.parametrize("path", [b"..", b"../a", b"a/..", b"a/../b", b"./../a", b"/..", b"a\0b", b"./.\0"])
def test_names_that_lead_out(path: bytes) -> None:
    """Dots that lead up are refused even where they would stay inside."""
    with pytest.raises(Unsafe):
        inside(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a/b", (Role.ENTRY, b"a", b"b")),
        (b"./", (Role.ENTRY, b"", b"")),
        (b"a/.wh.b", (Role.WHITEOUT, b"a", b"b")),
        (b"/.wh.b", (Role.WHITEOUT, b"", b"b")),
        (b"a/.wh..b", (Role.WHITEOUT, b"a", b".b")),
        (b"a/.wh....", (Role.WHITEOUT, b"a", b"...")),
        (b"a/.wh..wh..opq", (Role.OPAQUE, b"a", b"")),
        (b".wh..wh..opq", (Role.OPAQUE, b"", b"")),
        (b"a/.wh..wh.x", (Role.WHITEOUT, b"a", b".wh.x")),
        (b".wh..wh.plnk/1.2", (Role.NOTHING, b".wh..wh.plnk", b"1.2")),
        (b".wh..wh.aufs", (Role.NOTHING, b"", b".wh..wh.aufs")),
        (b"a.wh.b/c.wh.d", (Role.ENTRY, b"a.wh.b", b"c.wh.d")),
        (b".WH.a", (Role.ENTRY, b"", b".WH.a")),
    ],
)
def test_whiteouts(path: bytes, expected: tuple[Role, bytes, bytes]) -> None:
    """A whiteout names what it removes, or is opaque; what AUFS left behind is nothing."""
    assert expected == place(path)


@pytest.mark.parametrize(
    "path", [b".wh.", b"a/.wh.", b"a/.wh..", b"a/.wh...", b".wh.a/b", b"a/.wh.b/c", b"a/.wh..wh..opq/c"]
)
def test_whiteouts_that_are_refused(path: bytes) -> None:
    """One that names its own folder or the one above or nothing, and what is below one."""
    with pytest.raises(Unsafe):
        place(path)
