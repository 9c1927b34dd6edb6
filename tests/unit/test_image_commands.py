"""The commands that look inside an image: what they write, what they ask a registry for, and how they end."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from distsdk import Digest, Store, pull
from distsdk.testing import Registry, Status, WrongBytes

from ..support import COMMAND, ENVIRONMENT, HANGS, run_command, start_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NOISE = random.Random(1).randbytes(3_000_000)
BLOBS = r"/blobs/"
#: What a terminal would act on, and what is no UTF-8.
HOSTILE = "esc\x1b[31m", "new\nline", "\u202eover", "back\\slash", "<b>"

Entry = tuple[tarfile.TarInfo, bytes]

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and modes as POSIX has them")


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, /, **fields: Any) -> Entry:  # noqa: ANN401 - a field each
    """Return an entry of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o777 if kind == tarfile.SYMTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def layer(*entries: Entry) -> bytes:
    """Return a layer, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


LOWER = layer(
    entry("etc", b"", tarfile.DIRTYPE),
    entry("etc/passwd", b"root:x:0:0\n"),
    entry("etc/old", b"gone"),
    entry("usr/bin/tool", NOISE, mode=0o4755, uname="daemon", uid=1, gid=33, gname="www-data"),
    entry("usr/bin/same", b"", tarfile.LNKTYPE, linkname="usr/bin/tool"),
    entry("bin", b"", tarfile.SYMTYPE, linkname="usr/bin"),
    entry("dev/null", b"", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry("run/pipe", b"", tarfile.FIFOTYPE, mtime=0),
)
UPPER = layer(
    entry("etc/.wh.old"),
    entry("etc/passwd", b"root:x:0:0\nme:x:1:1\n"),
    entry("srv", b"", tarfile.DIRTYPE, mode=0o1777),
)
CONFIG = {
    "created": "2026-01-02T03:04:05Z",
    "config": {"Entrypoint": ["/bin/tool"], "Cmd": ["a b"], "User": "me", "Env": ["A=1"]},
    "history": [{"created_by": "ADD rootfs"}, {"created_by": "RUN \x1b[31m rm\n etc/old"}],
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The image ``x:1``, and what differs from it, ``x:2``."""
    with Registry() as registry:
        registry.add_image("x", "1", layers=[LOWER, UPPER], config=CONFIG)
        registry.add_image(
            "x",
            "2",
            layers=[LOWER, layer(entry("etc/passwd", b"root:x:0:1\nme:x:1:1\n"), entry("etc/new", b"1234"))],
            config={**CONFIG, "config": {"Env": ["A=2"], "Cmd": ["a b"]}, "history": CONFIG["history"][:1]},  # type: ignore[index] # a list
        )
        yield registry


@pytest.fixture
def ref(registry: Registry) -> str:
    """The name of the image."""
    return f"{registry.locator('x')}:1"


@pytest.fixture(autouse=True)
def variables(tmp_path: Path) -> dict[str, str]:
    """Where the commands of a test keep what they learn, and what they pulled."""
    return {"DISTSDK_STORE": str(tmp_path / "store"), "XDG_CACHE_HOME": str(tmp_path / "caches")}


class Run:
    """Runs the command."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Return how it ended."""
        return run_command(*arguments, "--quiet", stdin=stdin, variables=self.variables)

    def done(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Return what a command that succeeds writes; it has nothing to say."""
        ended = self(*arguments, stdin=stdin)
        assert (0, b"") == (ended.returncode, ended.stderr)
        return ended.stdout.decode()

    def refused(self, *arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
        """Return the code and the one line of a command that fails."""
        ended = self(*arguments, stdin=stdin)
        [line] = ended.stderr.decode().splitlines()
        assert line.isprintable()
        assert "Traceback" not in line
        return ended.returncode, line

    def on_terminal(
        self, *arguments: str | Path, columns: int = 80, stdin: bytes = b"", output: Path | None = None
    ) -> tuple[int, str]:
        """Return the code of a command whose stderr is a terminal, and its stdout if no file is, and what it shows."""
        import fcntl
        import pty
        import struct
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stdout = contextlib.nullcontext(theirs) if output is None else output.open("wb")
        with (
            stdout as out,
            subprocess.Popen(
                [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=out, stderr=theirs, env=self.variables
            ) as process,
        ):
            os.close(theirs)
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
            shown = b""
            with contextlib.suppress(OSError):  # EIO at the end
                while data := os.read(ours, 65536):
                    shown += data
            os.close(ours)
            return process.wait(60), shown.decode()


@pytest.fixture
def run(variables: dict[str, str]) -> Run:
    """Run the command in an environment of its own."""
    return Run(variables)


# ls and cat


def test_ls_without_tag_says_how_to_list_tags(variables: dict[str, str], registry: Registry) -> None:
    """A name without tag and path lists the files of latest, and stderr names the command for tags."""
    registry.add_image("x", "latest", layers=[UPPER])
    x = registry.locator("x")
    for arguments, said in (([x], True), ([x, "/etc"], False), ([f"{x}:latest"], False), ([x, "--quiet"], False)):
        done = subprocess.run([*COMMAND, "ls", *arguments], capture_output=True, check=True, env=variables)
        assert said == (f"to list tags: distsdk tags {x}\n" in done.stderr.decode())


def test_ls_lists_a_folder_and_cat_writes_a_file(run: Run, ref: str) -> None:
    """Links lead inside the image; a path needs no slash in front; a file lists itself."""
    assert "bin\ndev\netc\nrun\nsrv\nusr\n" == run.done("ls", ref)
    assert "same\ntool\n" == run.done("ls", ref, "/bin") == run.done("ls", ref, "bin/../bin/")
    assert "passwd\n" == run.done("ls", ref, "/etc") == run.done("ls", ref, "/etc/passwd")
    assert "root:x:0:0\nme:x:1:1\n" == run.done("cat", ref, "etc/passwd")
    assert NOISE == run("cat", ref, "/bin/same").stdout


def test_ls_r_lists_all_that_is_below(run: Run, ref: str) -> None:
    """By whole paths, each folder before what is in it."""
    expected = "/bin /dev /dev/null /etc /etc/passwd /run /run/pipe /srv /usr /usr/bin /usr/bin/same /usr/bin/tool"
    assert expected.split() == run.done("ls", "-R", ref).split()
    assert ["/usr/bin/same", "/usr/bin/tool"] == run.done("ls", "--recursive", ref, "/bin").split()


def test_ls_l_says_what_tar_says(run: Run, registry: Registry) -> None:
    """Type, mode, owner, size, time, name and link of each, as GNU tar has them."""
    tar = shutil.which("tar")
    if tar is None or b"GNU tar" not in subprocess.run([tar, "--version"], capture_output=True, check=True).stdout:
        pytest.skip("needs GNU tar")
    registry.add_image("x", "one", layers=[LOWER])
    listed = run.done("ls", "-lR", f"{registry.locator('x')}:one")
    told = subprocess.run([tar, "tvzf", "-"], input=LOWER, capture_output=True, check=True, env={"TZ": "UTC"}).stdout
    by_tar = {}
    for line in told.decode().splitlines():
        mode, owner, size, day, time, name = line.split(None, 5)
        by_tar[f"/{name.partition(' -> ')[0].rstrip('/')}"] = [mode, *owner.split("/"), size, day, time]
    ours = {line.split()[6]: line.split()[:6] for line in listed.splitlines()}
    del by_tar["/usr/bin/same link to usr/bin/tool"]  # what a link is a name of, it is
    assert ours.pop("/usr/bin/same") == by_tar["/usr/bin/tool"]
    for folder in ("/usr", "/usr/bin", "/dev", "/run"):  # no entry says what they are
        assert "drwxr-xr-x" == ours.pop(folder)[0]
    assert by_tar == ours
    assert "lrwxrwxrwx 0        0                 0 2020-09-13 12:26 /bin -> usr/bin" in listed.splitlines()


def test_ls_json_is_a_line_for_each(run: Run, ref: str) -> None:
    """With all that is known, and the layer it came from."""
    found = {fields.pop("path"): fields for fields in map(json.loads, run.done("ls", "-R", "--json", ref).splitlines())}
    assert {
        "type": "file", "size": 3_000_000, "mode": "4755", "uid": 1, "gid": 33, "mtime": "2020-09-13T12:26:40+00:00",
        "layer": 0,
    } == found["/usr/bin/same"] == found["/usr/bin/tool"]  # fmt: skip
    assert ("symlink", "usr/bin", 0) == tuple(found["/bin"][name] for name in ("type", "link", "layer"))
    assert ("folder", 1) == (found["/srv"]["type"], found["/srv"]["layer"])
    assert ("character-device", "fifo") == (found["/dev/null"]["type"], found["/run/pipe"]["type"])
    assert 1 == found["/etc/passwd"]["layer"]


@posix
def test_hostile_names_are_shown_and_not_acted_upon(run: Run, registry: Registry) -> None:
    """Control characters are escaped, in listings, links and JSON; each entry stays one line; bytes stay bytes."""
    names = [*HOSTILE, os.fsdecode(b"\xff\xfe")]
    entries = [entry(f"d/{name}", b"x") for name in names]
    entries.append(entry("d/link", b"", tarfile.SYMTYPE, linkname="\x1b[2J\n"))
    registry.add_image("x", "hostile", layers=[layer(*entries)])
    registry.add_image("x", "none", layers=[])
    ref = f"{registry.locator('x')}:hostile"
    for options in ([], ["-l"], ["-R"], ["-lR"], ["--json"]):
        text = run.done("ls", *options, ref, "/d")
        assert 7 == len(text.splitlines())
        assert all(line.isprintable() for line in text.splitlines())
    assert {"esc\\x1b[31m", "new\\nline", "\\u202eover", "<b>", "link"} < set(run.done("ls", ref, "/d").splitlines())
    assert b"x" == run("cat", ref, os.fsencode("/d/") + b"\xff\xfe").stdout  # type: ignore[arg-type] # as a shell does
    assert 7 == len(json.loads(run.done("diff", "--json", f"{registry.locator('x')}:none", ref))["files"]) - 1
    assert all(line.isprintable() for line in run.done("diff", f"{registry.locator('x')}:none", ref).splitlines())
    assert all(line.isprintable() for line in run.done("unpack", "--dry-run", ref, "x").splitlines())
    code, line = run.refused("cat", ref, "/d/no\x1b[31m")
    assert (3, True) == (code, "no\\x1b[31m" in line)


# What it costs


@pytest.mark.slow
def test_a_pass_is_told_once(registry: Registry, ref: str, variables: dict[str, str]) -> None:
    """The first command says what it reads, on stderr; the next one, another process, reads and says nothing."""
    command = [*COMMAND, "ls", ref, "/etc"]
    environment = {**ENVIRONMENT, **variables}
    first, second = (subprocess.run(command, capture_output=True, check=True, env=environment) for _ in range(2))
    assert first.stdout == second.stdout == b"passwd\n"
    assert {
        f"distsdk: reading all of layer 0, {len(LOWER) / 1024**2:.1f} MiB: it has no table of contents",
        f"distsdk: reading all of layer 1, {len(UPPER)} bytes: it has no table of contents",
    } == set(first.stderr.decode().splitlines())
    assert b"" == second.stderr
    assert len(LOWER) + len(UPPER) <= registry.count_bytes("GET", BLOBS) < len(LOWER) + len(UPPER) + 5000


def test_only_the_layers_that_are_needed_are_read(run: Run, registry: Registry, ref: str) -> None:
    """A file of the top layer takes that one."""
    run.done("cat", ref, "/etc/passwd")
    assert 0 == registry.count("GET", str(Digest.of(LOWER)))


def test_what_was_pulled_is_read_offline(run: Run, registry: Registry, ref: str, variables: dict[str, str]) -> None:
    """Every command takes an image from the store where it is there."""
    pull(ref, Store(variables["DISTSDK_STORE"]), platform="linux/amd64")
    registry.reset()
    registry.fault(Status(500))
    run.done("inspect", ref, "--platform", "linux/amd64")
    run.done("ls", "-R", ref, "--platform", "linux/amd64")
    assert "root:x:0:0\nme:x:1:1\n" == run.done("cat", ref, "/etc/passwd", "--platform", "linux/amd64")
    run.done("diff", ref, ref)
    assert [] == registry.requests


def test_a_missing_file_names_near_ones(run: Run, registry: Registry, ref: str) -> None:
    """Names in the same directory that are close are named, without a request of their own."""
    for arguments in (
        ("cat", ref, "/etc/passwrd"),
        ("ls", ref, "etc/passwrd"),
        ("ls", "-R", ref, "/etc/passwrd"),
        ("du", ref, "/etc/passwrd"),
    ):
        code, said = run.refused(*arguments)
        assert (3, True) == (code, said.endswith("not found; near names: passwd"))
    assert "near" not in run.refused("cat", ref, "/nothing/at/all")[1]


# Progress


@posix
def test_progress_is_shown_on_a_terminal(run: Run, registry: Registry, ref: str, tmp_path: Path) -> None:
    """fetch, unpack, apply and the first pass over a layer show bytes in binary units, however long the name is."""
    blob = registry.add_blob("x", NOISE)
    file = tmp_path / "blob"
    code, shown = run.on_terminal("fetch", registry.locator("x"), str(blob.digest), output=file)
    assert (0, NOISE) == (code, file.read_bytes())
    assert f"{blob.digest}"[:19] in shown
    assert "2.86MiB/2.86MiB" in shown
    code, shown = run.on_terminal("unpack", ref, str(tmp_path / "root"))
    assert (0, True) == (code, "2.86MiB/2.86MiB" in shown)
    for directory in (tmp_path / "root", tmp_path / f"{'long' * 20}-name"):
        directory.mkdir(exist_ok=True)
        code, shown = run.on_terminal("apply", str(directory), stdin=LOWER)
        *_, final, end = shown.split("\r")
        assert (0, "\n") == (code, end)
        assert f"{str(directory)[-10:]}: 2.86MiB [" in final
    code, shown = run.on_terminal("ls", ref)
    assert 0 == code
    assert "layer 0: 100%" in shown
    assert shown.endswith("bin\r\ndev\r\netc\r\nrun\r\nsrv\r\nusr\r\n")
    assert "layer" not in run.on_terminal("ls", ref)[1]  # it is known now


@posix
def test_progress_needs_a_terminal(run: Run, registry: Registry, ref: str, tmp_path: Path) -> None:
    """With ``--quiet``, without a terminal, and for data that goes to the terminal there is no bar."""
    blob = registry.add_blob("x", b"a" * 2_000_000)
    fetch = ("fetch", registry.locator("x"), str(blob.digest))
    assert (0, "") == run.on_terminal(*fetch, "--quiet", output=tmp_path / "blob")
    assert (0, "a" * 2_000_000) == run.on_terminal(*fetch)
    assert (0, "") == run.on_terminal("unpack", ref, str(tmp_path / "root"), "--quiet")
    assert (0, "") == run.on_terminal("apply", str(tmp_path / "root"), "--quiet", stdin=LOWER)
    assert "layer" not in run.on_terminal("ls", ref, "--quiet")[1]
    for arguments, stdin in (
        (fetch, b""),
        (("unpack", ref, str(tmp_path / "other")), b""),
        (("apply", str(tmp_path / "other")), LOWER),
    ):
        assert b"iB" not in run_command(*arguments, stdin=stdin, variables=run.variables).stderr


@posix
def test_a_small_object_shows_no_progress(run: Run, ref: str, tmp_path: Path) -> None:
    """A manifest is written without a bar."""
    assert (0, "") == run.on_terminal("fetch", ref, output=tmp_path / "manifest")


# inspect


def test_inspect_says_what_it_is(run: Run, registry: Registry, ref: str) -> None:
    """For people a table, with steps on one line; for machines the documents."""
    text = run.done("inspect", ref)
    assert all(line.isprintable() for line in text.splitlines())
    for line in (
        f"name     {ref}",
        "platform linux/amd64",
        "created  2026-01-02T03:04:05Z",
        "command  /bin/tool 'a b'",
        "user     me",
    ):
        assert line in text.splitlines()
    assert f"layer 1  {Digest.of(UPPER)}" in text
    assert "RUN \\x1b[31m rm etc/old" in text
    fields = json.loads(run.done("inspect", "--json", ref))
    assert [str(Digest.of(LOWER)), str(Digest.of(UPPER))] == [found["digest"] for found in fields["manifest"]["layers"]]
    assert CONFIG["config"] == fields["config"]["config"]
    assert (ref, None) == (fields["name"], fields["index"])
    assert run.done("resolve", ref).strip() == fields["digest"]


def test_inspect_shows_index_and_child(run: Run, registry: Registry) -> None:
    """The digests of the index and of the chosen image are shown; an image in the store takes no request."""
    images = [registry.add_image("x", layers=[LOWER], platform=f"linux/{name}") for name in ("amd64", "arm64")]
    index = registry.add_index("x", "both", manifests=images)
    ref = f"{registry.locator('x')}:both"
    lines = run.done("inspect", ref, "--platform", "linux/arm64").splitlines()
    assert [f"index    {index.digest}", f"digest   {images[1].digest}", "platform linux/arm64"] == lines[1:4]
    assert 4 == registry.count()
    fields = json.loads(run.done("inspect", "--json", ref, "--platform", "linux/arm64"))
    assert (str(index.digest), str(images[1].digest)) == (fields["index"], fields["digest"])
    run.done("pull", "--all-platforms", ref)
    registry.reset()
    assert lines == run.done("inspect", ref, "--platform", "linux/arm64").splitlines()
    assert 0 == registry.count()


@posix
@pytest.mark.parametrize("columns", [80, 120])
def test_inspect_fits_the_terminal(run: Run, registry: Registry, columns: int) -> None:
    """No line is wider than the terminal; the digests of index and child are whole."""
    long = {**CONFIG, "history": [{"created_by": "RUN " + "x" * 200}]}
    image = registry.add_image("x", layers=[LOWER], config=long, platform="linux/amd64")
    index = registry.add_index("x", "long", manifests=[image])
    code, shown = run.on_terminal("inspect", f"{registry.locator('x')}:long", columns=columns)
    lines = shown.splitlines()
    assert 0 == code
    assert max(map(len, lines)) == columns
    assert {f"index    {index.digest}", f"digest   {image.digest}"} < set(lines)
    assert str(Digest.of(LOWER))[: 71 if columns == 120 else 19] in lines[-1]
    run.done("pull", "--all-platforms", f"{registry.locator('x')}:long")
    code, shown = run.on_terminal("images", columns=columns)
    assert str(index.digest)[: 71 if columns == 120 else 19] in shown
    assert (0, True) == (code, max(map(len, shown.splitlines())) <= columns)


# du


def test_du_counts_what_a_walk_counts(run: Run, registry: Registry, ref: str) -> None:
    """By folder and by layer, with what later layers hide; and of one folder, or one file."""
    found = json.loads(run.done("du", "--json", ref))
    assert {"/": 3_000_020, "/dev": 0, "/etc": 20, "/run": 0, "/srv": 0, "/usr": 3_000_000} == found["folders"]
    assert (3_000_020, 15) == (found["content"], found["wasted"])
    assert [
        {"digest": str(Digest.of(LOWER)), "packed": len(LOWER), "content": 3_000_015, "files": 3, "wasted": 15},
        {"digest": str(Digest.of(UPPER)), "packed": len(UPPER), "content": 20, "files": 1, "wasted": 0},
    ] == found["layers"]
    assert {"/usr": 3_000_000, "/usr/bin": 3_000_000} == json.loads(run.done("du", "--json", ref, "/usr"))["folders"]
    assert {"/usr/bin": 3_000_000} == json.loads(run.done("du", "--json", ref, "/bin"))["folders"]
    assert {"/etc/passwd": 20} == json.loads(run.done("du", "--json", ref, "/etc/passwd"))["folders"]
    assert "/usr/bin" in json.loads(run.done("du", "-a", "--json", ref))["folders"]
    lines = run.done("du", ref).splitlines()
    assert "     2.9 MiB  /" == lines[0]
    assert "     2.9 MiB  layer 0: 3 files, " in lines[-2]
    assert lines[-1].endswith(f"layer 1: 1 file, {len(UPPER)} bytes packed, 0 bytes hidden")


# diff


def test_diff_says_what_differs(run: Run, registry: Registry, ref: str) -> None:
    """A line for each change: what, of which kind, where, and from what to what."""
    other = f"{registry.locator('x')}:2"
    lines = run.done("diff", ref, other).splitlines()
    digests = [run.done("resolve", name).strip() for name in (ref, other)]
    top = layer(entry("etc/passwd", b"root:x:0:1\nme:x:1:1\n"), entry("etc/new", b"1234"))
    assert [
        f"- {ref}@{digests[0]}",
        f"+ {other}@{digests[1]}",
        '- setting  Entrypoint  ["/bin/tool"]',
        "~ setting  Env.A  1 -> 2",
        "- setting  User  me",
        "- step     RUN \\x1b[31m rm etc/old",
        f"- layer    {Digest.of(UPPER)}  {len(UPPER)} bytes",
        f"+ layer    {Digest.of(top)}  {len(top)} bytes",
        "+ file     /etc/new  4 bytes",
        "+ file     /etc/old  4 bytes",
        "~ file     /etc/passwd  20 bytes  (content)",
        "- file     /srv  0 bytes",
    ] == lines
    assert [f"- {ref}@{digests[0]}", f"+ {ref}@{digests[0]}"] == run.done("diff", ref, ref).splitlines()


def test_diff_json_is_one_object(run: Run, registry: Registry, ref: str) -> None:
    """With what both sides have, and null where one has nothing."""
    found = json.loads(run.done("diff", "--json", ref, f"{registry.locator('x')}:2"))
    assert ["before", "after", "settings", "history", "layers", "packages", "files"] == list(found)
    assert {"name": "Env.A", "before": "1", "after": "2"} in found["settings"]
    assert (1, 1, []) == (found["history"]["shared"], found["layers"]["shared"], found["history"]["after"])
    files = {change.pop("path"): change for change in found["files"]}
    assert ("changed", ["content"], 20, 20) == (
        files["/etc/passwd"]["what"],
        files["/etc/passwd"]["how"],
        files["/etc/passwd"]["before"]["size"],
        files["/etc/passwd"]["after"]["size"],
    )
    assert (None, "folder") == (files["/srv"]["after"], files["/srv"]["before"]["type"])
    assert [] == found["packages"]


def test_diff_tells_packages_and_what_it_reads(registry: Registry, ref: str, variables: dict[str, str]) -> None:
    """Versions from the database; on stderr how many bytes of files have to be read to tell them apart."""
    for version in ("1", "2"):
        status = f"Package: p\nVersion: {version}\nArchitecture: all\n".encode()
        registry.add_image("x", f"p{version}", layers=[layer(entry("var/lib/dpkg/status", status))])
    names = [f"{registry.locator('x')}:{tag}" for tag in ("p1", "p2")]
    ended = run_command("diff", *names, variables=variables)
    assert "~ package  p  1 -> 2" in ended.stdout.decode().splitlines()
    assert "~ file     /var/lib/dpkg/status  40 bytes  (content)" in ended.stdout.decode().splitlines()
    assert b"distsdk: comparing the content of files: 80 bytes to be read\n" in ended.stderr
    ended = run_command("diff", "--json", *names, variables=variables)
    assert [
        {
            "name": "p",
            "manager": "dpkg",
            "what": "changed",
            "before": {"version": "1", "architecture": "all"},
            "after": {"version": "2", "architecture": "all"},
        }
    ] == json.loads(ended.stdout)["packages"]


# unpack and apply


@posix
def test_unpack_writes_the_tree(run: Run, registry: Registry, tmp_path: Path) -> None:
    """Into a new directory, once; a rehearsal writes names to stdout and nothing else."""
    registry.add_image("x", "plain", layers=[layer(entry("a/b", b"1")), layer(entry("a/.wh.b"), entry("a/c", b"2"))])
    ref = f"{registry.locator('x')}:plain"
    assert "a/b\na/.wh.b\na/c\n" == run.done("unpack", "--dry-run", ref, tmp_path / "root")
    assert not (tmp_path / "root").exists()
    assert 0 == run("unpack", ref, tmp_path / "root").returncode
    assert {"a", "a/c"} == {str(path.relative_to(tmp_path / "root")) for path in (tmp_path / "root").rglob("*")}
    code, line = run.refused("unpack", ref, tmp_path / "root")
    assert (8, True) == (code, "is not empty" in line)


@posix
def test_apply_takes_a_layer_from_stdin(run: Run, tmp_path: Path) -> None:
    """On top of what is there; whiteouts remove; the diffID is checked where it is given, and the rehearsal too."""
    root = tmp_path / "root"
    one, two = layer(entry("a", b"1"), entry("b", b"2")), layer(entry(".wh.a"), entry("b", b"3"))
    assert 0 == run("apply", root, stdin=one).returncode
    assert ".wh.a\nb\n" == run.done("apply", "--dry-run", root, stdin=two)
    code, line = run.refused("apply", "--dry-run", root, "--diff-id", str(Digest.of(b"")), stdin=two)
    assert (5, True) == (code, "diffID of layer 1 is wrong" in line)
    diff_id = str(Digest.of(gzip.decompress(two)))
    assert 0 == run("apply", root, "--diff-id", diff_id, stdin=two).returncode
    assert {"b": b"3"} == {path.name: path.read_bytes() for path in root.iterdir()}


# How they end


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ls", "{x}:nothing"], 3, "nothing"),
        (["ls", "{x}:1", "/nowhere"], 3, "'/nowhere' not found"),
        (["cat", "{x}:1", "/etc"], 3, "is a directory"),
        (["cat", "{x}:1", "/etc/passwd/x"], 3, "is not a directory"),
        (["du", "{x}:1", "/nowhere"], 3, "not found"),
        (["diff", "{x}:1", "{x}:nothing"], 3, "nothing"),
        (["ls", "{x}:1", "--platform", "a/b/c/d"], 2, "platform"),
        (["ls", "{x}:artifact"], 5, "is not an image but an artifact of type text/x"),
        (["ls", "{x}:cut"], 5, "truncated"),
        (["ls", "{x}:loop", "/loop"], 8, "symbolic links"),
        (["ls", "{x}:up"], 8, "it has '..'"),
        (["unpack", "{x}:up", "{tmp}/root"], 8, "it has '..'"),
        (["inspect", "{x}:bad"], 5, "architecture is a number"),
    ],
)
def test_each_kind_of_failure_has_its_code(
    run: Run, registry: Registry, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    registry.add_artifact("x", "artifact", artifact_type="text/x", files={"a": b"1"})
    registry.add_image("x", "cut", layers=[gzip.compress(gzip.decompress(UPPER)[:700])])
    registry.add_image("x", "loop", layers=[layer(entry("loop", b"", tarfile.SYMTYPE, linkname="loop"))])
    registry.add_image("x", "up", layers=[layer(entry("a/../../x", b"1"))])
    registry.add_image("x", "bad", layers=[UPPER], config=b'{"os": "linux", "architecture": 7}')
    found, line = run.refused(*(a.format(x=registry.locator("x"), tmp=tmp_path) for a in arguments))
    assert (code, True) == (found, said in line), line


def test_damage_has_code_5(run: Run, registry: Registry, ref: str) -> None:
    """Wrong bytes of a layer, also where a listing alone is asked for."""
    registry.fault(WrongBytes(), path=str(Digest.of(LOWER)))
    for arguments in (["ls", ref], ["cat", ref, "/usr/bin/tool"], ["diff", ref, ref], ["du", ref]):
        code, line = run.refused(*arguments)
        assert (5, True) == (code, str(Digest.of(LOWER)) in line)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("arguments", [["cat", "/usr/bin/tool"], ["ls", "-R"]])
def test_a_closed_stdout_ends_quietly(
    registry: Registry, ref: str, variables: dict[str, str], arguments: list[str]
) -> None:
    """Like any other tool in a pipe: 141, without a word."""
    many = layer(*(entry(f"folder/{number:0200}") for number in range(2000)))
    registry.add_image("x", "many", layers=[LOWER, many])
    name, *rest = arguments
    with start_command("--quiet", name, ref.replace(":1", ":many"), *rest, variables=variables) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert b"" == process.stderr.read()
        assert 141 == process.wait(timeout=HANGS)
