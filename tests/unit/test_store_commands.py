"""The commands of the store, `pull`, `images` and `content`: tables and JSON, options, exit codes, and how they end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distsdk import Blob, Digest, Store
from distsdk.testing import Registry, Stall, Status

from ..support import COMMAND, ENVIRONMENT, HANGS, digest, run_command, start_command, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYER = b"a layer " * 10_000

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and shells as POSIX has them")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An index ``1`` of two platforms that share a layer, and the images by themselves."""
    with Registry() as registry:
        images = [
            registry.add_image("x", name, layers=[LAYER, name.encode()], platform=f"linux/{name}")
            for name in ("amd64", "arm64")
        ]
        registry.add_index("x", "1", manifests=images)
        yield registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store will be."""
    return tmp_path / "store"


def done(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Return what a command that succeeds without a word of its own writes."""
    ended = run_command(*arguments, stdin=stdin)
    assert (0, b"") == (ended.returncode, ended.stderr)
    return ended.stdout.decode()


def refused(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """Return the code and the message of a command that fails; it is one line that a terminal can show."""
    ended = run_command(*arguments, stdin=stdin)
    assert b"" == ended.stdout
    said = ended.stderr.decode().strip().rpartition("\n")[2]
    assert said.isprintable()
    assert "Traceback" not in ended.stderr.decode()
    return ended.returncode, said


def jq(expression: str, text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return what jq makes of what a command wrote, or Python where there is no jq to ask."""
    tool = shutil.which("jq")
    if tool is None:
        pytest.skip("jq is not installed")
    found = subprocess.run([tool, "-c", expression], input=text.encode(), capture_output=True, check=True).stdout
    return json.loads(found)


def damage(store: Path, name: str) -> None:
    """Change a byte of a blob."""
    path = Store(store).path(name)
    path.chmod(0o600)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


# Pull and images


def test_a_pull_writes_the_digest(registry: Registry, folder: Path) -> None:
    """Of what the name stands for; as JSON its descriptor, with which skopeo and jq can go on."""
    x = f"{registry.locator('x')}:1"
    plain = done("--store", folder, "pull", "--platform", "linux/arm64", x)
    fields = done("--store", folder, "pull", "--platform", "linux/arm64", x, "--json")
    assert plain.strip() == jq(".digest", fields)
    assert ["linux", "arm64"] == jq("[.platform.os, .platform.architecture]", fields)
    assert 700 > jq(".size", fields) > 400
    assert [x] == list(Store(folder).images())


def test_a_plan_is_a_table_and_json(registry: Registry, folder: Path) -> None:
    """What is here and what is to come, part by part, in numbers that add up; nothing is written."""
    x = f"{registry.locator('x')}:1"
    arguments = ("pull", "--store", folder, "--plan", "--platform", "linux/amd64", x)
    lines = done(*arguments).splitlines()
    assert not folder.exists()
    assert lines[0].startswith(f"{x} is application/vnd.oci.image.manifest.v1+json sha256:")
    assert re.fullmatch(r"5 requests for 7[0-9]\.[0-9] KiB; 0 bytes are here", lines[-1])
    assert 4 == sum(" missing " in line for line in lines[1:-1]) == len(lines[1:-1])
    Store(folder).ingest(Blob.from_bytes(LAYER))
    text = done(*arguments, "--json")
    assert [4, len(LAYER), True, x] == jq("[.requests, .here, (.size == .here + .missing), .name]", text)
    assert [len(LAYER)] == jq("[.steps[] | select(.here > 0) | .here]", text)
    assert jq(".missing", text) < jq(".to_fetch", text)  # the index is read, and not kept
    assert jq("[.steps[].size] | add", text) == jq(".size", text)
    assert 1 == sum(" here " in line for line in done(*arguments).splitlines()[1:-1])


def test_images_are_a_table_and_json(registry: Registry, folder: Path) -> None:
    """In the order in which they came, with what tells them apart; none is no line but the head."""
    assert "NAME  DIGEST  PLATFORM OR TYPE\n" == done("images", "--store", folder)
    assert {} == jq(".", done("images", "--json", "--store", folder))
    x = registry.locator("x")
    first = done("--store", folder, "pull", "--platform", "linux/arm64", f"{x}:1").strip()
    second = done("--store", folder, "pull", f"{x}:amd64").strip()
    head, *rows = (line.split() for line in done("images", "--store", folder).splitlines())
    assert ["NAME", "DIGEST", "PLATFORM", "OR", "TYPE"] == head
    kind = "application/vnd.oci.image.manifest.v1+json"
    assert [[f"{x}:1", first, "linux/arm64"], [f"{x}:amd64", second, kind]] == rows
    text = done("images", "--store", folder, "--json")
    assert {f"{x}:1": first, f"{x}:amd64": second} == jq("map_values(.digest)", text)


def test_names_are_taken_away(registry: Registry, folder: Path) -> None:
    """Several at once, in full or as people write them; one that is not there is told, and the others go."""
    x = registry.locator("x")
    store = Store(folder)
    descriptor = store.ingest(Blob.from_bytes(b'{"config": 1}'))
    from distsdk import Descriptor

    for name in (f"{x}:1", f"{x}:2", "docker.io/library/redis:7", "latest", "kept"):
        store.tag(name, Descriptor("application/vnd.oci.image.manifest.v1+json", descriptor.digest, descriptor.size))
    ended = run_command("images", "rm", f"{x}:1", "no such/name", f"{x}:3", "redis:7", "latest", "--store", folder)
    assert (2, b"") == (ended.returncode, ended.stdout)  # the code of the first that failed
    assert 2 == ended.stderr.count(b"\n")
    assert {f"{x}:2", "kept"} == store.images().keys()
    assert (3, f"distsdk: no image in {folder} is named '{x}:3'") == refused(
        "images", "rm", f"{x}:3", "--store", folder
    )
    assert "" == done("images", "rm", f"{x}:2", "kept", "--store", folder)
    assert {} == store.images()


def test_what_a_pull_refuses_has_its_code(registry: Registry, folder: Path, tmp_path: Path) -> None:
    """A platform that is not there, two ways to choose, a folder of somebody else, a registry that is down."""
    x = registry.locator("x")
    code, said = refused("pull", "--store", folder, f"{x}:1", "--platform", "linux/s390x")
    assert (3, True) == (code, "linux/amd64, linux/arm64" in said)
    assert 2 == refused("pull", "--store", folder, f"{x}:1", "--platform", "linux/amd64", "--all-platforms")[0]
    assert 2 == refused("pull", "--store", folder, f"{x}:1", "--platform", "linux/amd64/v1/v2")[0]
    assert 3 == refused("pull", "--store", folder, f"{x}:nothing")[0]
    assert 2 == refused("pull", "--store", folder, "docker://x:1")[0]
    assert 6 == refused("pull", "--store", folder, "127.0.0.1:1/x:1")[0]
    assert not folder.exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter\x1b[2J").write_bytes(b"")
    assert 2 == refused("pull", "--store", tmp_path / "thesis", f"{x}:amd64")[0]
    (tmp_path / "file").write_bytes(b"")
    assert 2 == refused("pull", "--store", tmp_path / "file", f"{x}:amd64")[0]  # click sees that it is no folder
    assert 1 == refused("pull", "--store", tmp_path / "file" / "store", f"{x}:amd64")[0]
    registry.fault(Status.error(404, "BLOB_UNKNOWN"), path=digest(LAYER))
    code, said = refused("pull", "--store", folder, f"{x}:amd64")
    assert (3, True, {}) == (code, digest(LAYER) in said, Store(folder).images())


@pytest.mark.slow
@posix
def test_a_pull_has_a_timeout(registry: Registry, folder: Path) -> None:
    """For the whole command: 6, soon, in one line, and what came is kept."""
    registry.fault(Stall(after=50_000), path=digest(LAYER), times=1)
    with start_command("--timeout", "3", "pull", "--store", folder, f"{registry.locator('x')}:amd64") as process:
        out, said = process.communicate(timeout=HANGS)
    assert (6, b"", b"distsdk: not done within 3 seconds (--timeout)\n") == (process.returncode, out, said)
    assert {} == Store(folder).images()
    [active] = json.loads(done("content", "active", "--json", "--store", folder))
    assert (digest(LAYER), len(LAYER), 50_000) == (active["key"], active["total"], active["offset"])
    registry.reset()
    done("pull", "--store", folder, f"{registry.locator('x')}:amd64")
    assert len(LAYER) - 50_000 == registry.count_bytes(path=digest(LAYER))


# Content


@pytest.mark.slow
@posix
def test_an_ingest_is_seen_while_it_goes_on(folder: Path) -> None:
    """With its key, what is here and of how many, since when, and by whom; done, it is a blob and no longer active."""
    assert "KEY  OFFSET  TOTAL  STARTED  UPDATED  PID\n" == done("content", "active", "--store", folder)
    assert [] == json.loads(done("content", "active", "--json", "--store", folder))
    size = ("--expected-digest", digest(LAYER), "--expected-size", str(len(LAYER)))
    with start_command("content", "ingest", "layer 1", *size, "--store", folder) as process:
        assert process.stdin is not None
        process.stdin.write(LAYER[:30_000])
        process.stdin.flush()
        wait_until(lambda: any(active.offset == 30_000 for active in Store(folder).active()))
        head, row = done("content", "active", "--store", folder).splitlines()
        assert re.fullmatch(rf"layer 1  29\.3 KiB  78\.1 KiB  \d+ s ago  \d+ s ago  {process.pid}", row)
        assert head.index("TOTAL") == row.index("78.1")
        text = done("content", "active", "--json", "--store", folder)
        expected = ["layer 1", 30_000, len(LAYER), process.pid]
        assert [expected] == jq("map([.key, .offset, .total, .pid])", text)
        assert jq("all(.started <= .updated)", text)
        assert "" == done("content", "ls", "-q", "--store", folder)
        assert (1, True) == ((gc := refused("content", "gc", "--store", folder))[0], "layer 1" in gc[1])
        out, said = process.communicate(LAYER[30_000:], timeout=HANGS)
    assert (0, f"{digest(LAYER)}\n".encode(), b"") == (process.returncode, out, said)
    assert [] == Store(folder).active()


def test_a_key_without_a_digest(folder: Path) -> None:
    """Whatever comes is taken, and the total is not known; the same bytes again are no failure."""
    for _ in range(2):
        assert f"{digest(b'bytes')}\n" == done("content", "ingest", "key", "--store", folder, stdin=b"bytes")
    assert f"{digest(b'')}\n" == done("content", "ingest", "key", "--store", folder)
    assert {digest(b"bytes"), digest(b"")} == set(done("content", "ls", "-q", "--store", folder).split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["k", "--expected-digest", digest(b"other")], 5, "expected sha256:"),
        (["k", "--expected-size", "4"], 5, "more bytes than the 4 expected"),
        (["k", "--expected-size", "6"], 5, "has 5 bytes, expected are 6"),
        (["k", "--expected-digest", "sha256:12"], 2, "sha256"),
        (["k", "--expected-digest", "md5:d41d8cd98f00b204e9800998ecf8427e"], 2, "md5"),
        (["k", "--expected-size", "-1"], 2, "-1"),
        ([""], 2, "a key of 1 to 4096 printable characters"),
        (["a\x1b[2Jb"], 2, "printable"),
        (["a\nb"], 2, "printable"),
        (["k" * 5000], 2, "4096"),
        ([], 2, "KEY"),
    ],
)
def test_what_an_ingest_refuses_is_not_kept(folder: Path, arguments: list[str], code: int, said: str) -> None:
    """The code of its error, one message, and nothing is left."""
    got, message = refused("content", "ingest", *arguments, "--store", folder, stdin=b"bytes")
    assert (code, True) == (got, said in message)
    assert ([], []) == ([*Store(folder).blobs()], Store(folder).active())


@posix
def test_an_ingest_without_stdin_is_usage(folder: Path) -> None:
    """Where it is closed from the start there is nothing to take, and nothing is made."""
    command = f'"$0" -m distsdk content ingest key --store {folder} <&-'
    ended = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, check=False, env=ENVIRONMENT)
    assert (2, b"", False) == (ended.returncode, ended.stdout, folder.exists())
    assert b"stdin, which is closed" in ended.stderr


def test_blobs_are_listed_read_and_removed(folder: Path) -> None:
    """By their digests, in lines and in JSON; the path is that of a read-only file with the bytes."""
    data = {digest(each): each for each in (b"one", b"two\x00\xff", LAYER)}
    for number, each in enumerate(data.values()):
        done("content", "ingest", f"key-{number}", "--store", folder, stdin=each)
    assert sorted(data) == sorted(done("content", "ls", "-q", "--store", folder).split())
    lines = sorted(done("content", "ls", "--store", folder).splitlines())
    assert [
        f"{name}  {'78.1 KiB' if len(data[name]) > 10 else f'{len(data[name])} bytes':>12}" for name in sorted(data)
    ] == lines
    text = done("content", "ls", "--json", "--store", folder)
    sizes = jq("[inputs] | map({(.digest): .size}) | add", f"null\n{text}")
    assert {name: len(each) for name, each in data.items()} == sizes
    for name, each in data.items():
        ended = run_command("content", "get", name, "--store", folder)
        assert (0, each, b"") == (ended.returncode, ended.stdout, ended.stderr)
        path = Path(done("content", "path", name, "--store", folder).strip())
        assert (each, 0) == (path.read_bytes(), path.stat().st_mode & 0o222)
    first, *rest = data
    ended = run_command("content", "rm", first, digest(b"missing"), "sha256:12", *rest, "--store", folder)
    assert (3, b"", 2) == (ended.returncode, ended.stdout, ended.stderr.count(b"\n"))
    assert "" == done("content", "ls", "--store", folder)


@pytest.mark.parametrize("command", ["get", "path", "rm"])
def test_a_blob_that_is_not_there(folder: Path, command: str) -> None:
    """3 and its digest; a digest that is none is 2; none at all is usage."""
    missing = digest(b"missing")
    assert (3, f"distsdk: {missing} is not in {folder}") == refused("content", command, missing, "--store", folder)
    assert 2 == refused("content", command, "sha256:../../../etc/passwd", "--store", folder)[0]
    assert 2 == refused("content", command, "--store", folder)[0]


def test_a_damaged_blob_is_told_when_it_is_read(folder: Path) -> None:
    """The bytes come, and after them 5 and the digests."""
    name = done("content", "ingest", "key", "--store", folder, stdin=LAYER).strip()
    damage(folder, name)
    ended = run_command("content", "get", name, "--store", folder)
    assert (5, len(LAYER)) == (ended.returncode, len(ended.stdout))
    assert name.encode() in ended.stderr


# Care


def test_damage_is_found_and_healed(registry: Registry, folder: Path) -> None:
    """Damaged blobs are written and 5 is the code; with --heal they come back from where their images came from."""
    x = f"{registry.locator('x')}:amd64"
    manifest = done("pull", "--store", folder, x).strip()
    ended = run_command("content", "verify", "--store", folder)
    assert (0, b"") == (ended.returncode, ended.stdout)
    assert re.fullmatch(rb"distsdk: 4 blobs, 7\d\.\d KiB: 0 damaged, 0 healed, 0 images incomplete\n", ended.stderr)
    for name in (digest(LAYER), manifest):
        damage(folder, name)
    ended = run_command("content", "verify", "--store", folder)
    assert (5, {digest(LAYER), manifest}) == (ended.returncode, set(ended.stdout.decode().split()))
    assert b"2 damaged, 0 healed, 1 image incomplete" in ended.stderr
    assert f"{x} is incomplete: 1 blob missing; pull it again".encode() in ended.stderr  # its manifest hides the rest
    # Quarantined blobs are missing, and no longer damaged: healing fetches and counts them all the same.
    ended = run_command("content", "verify", "--heal", "--store", folder)
    assert (0, b"") == (ended.returncode, ended.stdout)
    assert b"0 damaged, 2 healed, 0 images incomplete" in ended.stderr
    assert LAYER == Store(folder).path(digest(LAYER)).read_bytes()
    damage(folder, digest(LAYER))
    text = run_command("content", "verify", "--heal", "--json", "--store", folder)
    assert (0, b"") == (text.returncode, text.stderr)
    assert [[digest(LAYER)], [digest(LAYER)], 4] == jq("[.damaged, .healed, .count]", text.stdout.decode())
    assert LAYER == Store(folder).path(digest(LAYER)).read_bytes()


def test_one_image_that_cannot_be_healed_does_not_hinder_others(registry: Registry, folder: Path) -> None:
    """Its registry is gone: that is told, and what is damaged is written; the image of the other registry is healed."""
    with Registry() as gone:
        gone.add_image("y", "1", layers=[b"of the other"])
        lost = f"{gone.locator('y')}:1"
        done("pull", "--store", folder, lost)
    done("pull", "--store", folder, f"{registry.locator('x')}:amd64")
    for name in (digest(LAYER), digest(b"of the other")):
        damage(folder, name)
    ended = run_command("content", "verify", "--heal", "--store", folder)
    assert (5, {digest(LAYER), digest(b"of the other")}) == (ended.returncode, set(ended.stdout.decode().split()))
    assert b"2 damaged, 1 healed, 1 image incomplete" in ended.stderr
    assert gone.host.encode() in ended.stderr
    assert LAYER == Store(folder).path(digest(LAYER)).read_bytes()
    done("images", "rm", f"{registry.locator('x')}:amd64", "--store", folder)
    ended = run_command("content", "verify", "--heal", "--store", folder)
    assert (5, b"", 3) == (ended.returncode, ended.stdout, ended.stderr.count(b"\n"))


def test_an_incomplete_image_is_listed_as_incomplete(registry: Registry, folder: Path) -> None:
    """The commands images and content verify, and their JSON, name an image that lacks a blob; a pull completes it."""
    x = f"{registry.locator('x')}:amd64"
    done("pull", "--store", folder, x)
    done("content", "rm", digest(LAYER), "--store", folder)
    assert "(incomplete)" in done("images", "--store", folder)
    assert jq(f'.["{x}"].incomplete', done("images", "--json", "--store", folder)) is True
    ended = run_command("content", "verify", "--json", "--store", folder)
    assert (5, {x: [digest(LAYER)]}) == (ended.returncode, jq(".incomplete", ended.stdout.decode()))
    done("pull", "--store", folder, x)
    assert "(incomplete)" not in done("images", "--store", folder)
    assert 0 == run_command("content", "verify", "--store", folder).returncode


def test_pull_rehash_replaces_a_damaged_blob(registry: Registry, folder: Path) -> None:
    """Damage that keeps size, time and inode is found by pull --rehash alone."""
    x = f"{registry.locator('x')}:amd64"
    done("pull", "--store", folder, x)
    path = Store(folder).path(digest(LAYER))
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(bytes([LAYER[0] ^ 1]))
    path.chmod(before.st_mode & 0o7777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done("pull", "--store", folder, x)
    assert LAYER != path.read_bytes()
    done("pull", "--rehash", "--store", folder, x)
    assert LAYER == Store(folder).path(digest(LAYER)).read_bytes()


def test_a_directory_that_is_no_store_is_a_usage_error() -> None:
    """The command images --store /etc ends with 2 and one sentence."""
    ended = run_command("images", "--store", "/etc")
    assert (2, b"", 1) == (ended.returncode, ended.stdout, ended.stderr.count(b"\n"))


def test_a_short_name_says_nothing_of_a_registry(registry: Registry, folder: Path) -> None:
    """What another tool called ``latest`` did not come from docker.io/library/latest: nobody is asked."""
    done("pull", "--store", folder, f"{registry.locator('x')}:amd64")
    store = Store(folder)
    for name in ("latest", "redis:7", "oci:somewhere"):
        store.tag(name, store.images()[f"{registry.locator('x')}:amd64"])
    store.untag(f"{registry.locator('x')}:amd64")
    damage(folder, digest(LAYER))
    registry.reset()
    ended = run_command("content", "verify", "--heal", "--store", folder, "--debug")
    assert (5, f"{digest(LAYER)}\n".encode()) == (ended.returncode, ended.stdout)
    assert (0, 4) == (registry.count(), ended.stderr.count(b"\n"))  # a line for each name, and the summary


def test_garbage_is_collected(registry: Registry, folder: Path) -> None:
    """What no image leads to is written and goes; a dry run only writes it."""
    done("pull", "--store", folder, f"{registry.locator('x')}:amd64")
    loose = done("content", "ingest", "key", "--store", folder, stdin=b"loose").strip()
    for arguments, left in ((["--dry-run"], 5), ([], 4)):
        ended = run_command("content", "gc", *arguments, "--store", folder)
        assert (0, f"{loose}\n".encode()) == (ended.returncode, ended.stdout)
        assert b"distsdk: 1 blobs and 0 ingests, 5 bytes\n" == ended.stderr
        assert left == len(list(Store(folder).blobs()))
    done("images", "rm", f"{registry.locator('x')}:amd64", "--store", folder)
    text = done("content", "gc", "--json", "--store", folder)
    assert [4, [], True] == jq("[(.blobs | length), .ingests, (.size == ([.blobs[].size] | add))]", text)
    assert [] == list(Store(folder).blobs())


# Names and pipes


def test_what_others_wrote_is_printable(folder: Path) -> None:
    """Escape sequences in names, platforms and keys are shown as what they are; JSON keeps them."""
    evil = "evil\x1b[2J\u202e\nname"
    store = Store(folder)
    info = store.ingest(Blob.from_bytes(b"{}"))
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": str(info.digest),
        "size": 2,
        "platform": {"os": "linux", "architecture": "amd64", "os.version": evil},
        "annotations": {"org.opencontainers.image.ref.name": evil},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    text = done("images", "--store", folder)
    assert 2 == text.count("\n")
    assert all(line.isprintable() for line in text.splitlines())
    assert r"evil\x1b[2J" in text
    assert evil in json.loads(done("images", "--json", "--store", folder))
    ended = run_command("images", "rm", "other\x1b[2J", "--store", folder)
    assert (2, True) == (ended.returncode, ended.stderr.decode().strip().isprintable())
    # A key that a forged note holds is not taken at its word.
    (folder / "ingest/forged.data").write_bytes(b"x")
    note = {"key": evil, "total": None, "started": 0, "pid": 1}
    (folder / "ingest/forged.json").write_text(json.dumps(note))
    assert all(line.isprintable() for line in done("content", "active", "--store", folder).splitlines())
    assert [True] == [
        active["key"].isprintable() for active in json.loads(done("content", "active", "--json", "--store", folder))
    ]
    assert "" == done("images", "rm", evil, "--store", folder)


def test_the_store_is_named_in_many_ways(tmp_path: Path) -> None:
    """Before the command and after it, by variable, relative, in the user's home; the option counts most."""
    (tmp_path / "home").mkdir()
    home = {"HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "data")}
    ways: list[tuple[list[str], dict[str, str], Path]] = [
        (["--store", str(tmp_path / "a"), "content", "ingest", "k"], {}, tmp_path / "a"),
        (["content", "ingest", "k", "--store", str(tmp_path / "b")], {}, tmp_path / "b"),
        (["content", "--store", str(tmp_path / "c"), "ingest", "k"], {}, tmp_path / "c"),
        (["content", "ingest", "k"], {"DISTSDK_STORE": str(tmp_path / "d")}, tmp_path / "d"),
        (["content", "ingest", "k", "--store", "e"], {"DISTSDK_STORE": str(tmp_path / "d")}, tmp_path / "e"),
        (["content", "ingest", "k", "--store", "./f/../g"], {}, tmp_path / "g"),
        (["content", "ingest", "k", "--store", "~/h"], {}, tmp_path / "home/h"),
        (["content", "ingest", "k"], {"DISTSDK_STORE": "~/i"}, tmp_path / "home/i"),
    ]
    if sys.platform.startswith("linux"):
        ways.append((["content", "ingest", "k"], {"DISTSDK_STORE": ""}, tmp_path / "data/distsdk"))
    for arguments, variables, place in ways:
        ended = run_command(*arguments, stdin=b"bytes", variables={**home, **variables}, cwd=tmp_path)
        assert (0, b"") == (ended.returncode, ended.stderr), arguments
        assert [Digest.of(b"bytes")] == [info.digest for info in Store(place).blobs()], arguments


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "arguments",
    [
        "images",
        "images --json",
        "content ls",
        "content active",
        "content get {layer}",
        "content path {layer}",
        "pull {x}",
    ],
)
def test_a_stdout_that_is_closed_by_its_reader(registry: Registry, folder: Path, arguments: str) -> None:
    """Whatever is written to a pipe that nobody reads any longer, the end is quiet, and the same: 141."""
    x = f"{registry.locator('x')}:amd64"
    done("pull", "--store", folder, x)
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "--store", str(folder), *arguments.format(x=x, layer=digest(LAYER)).split()]
    try:
        ended = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=HANGS, env=ENVIRONMENT
        )
    finally:
        os.close(writer)
    assert (141, b"") == (ended.returncode, ended.stderr)


@pytest.mark.slow
@posix
def test_a_pipe_from_fetch_to_xargs(registry: Registry, folder: Path) -> None:
    """Piece by piece, as people do it: every layer is fetched and ingested, several at once, listed, and removed."""
    x = registry.locator("x")
    done("pull", "--store", folder, f"{x}:arm64")
    line = f"""
        distsdk() {{ "{sys.executable}" -m distsdk "$@"; }}
        export DISTSDK_STORE="{folder}2"
        distsdk fetch {x} amd64 | python3 -c 'import json, sys
for layer in json.load(sys.stdin)["layers"]: print(layer["digest"], layer["size"])' |
            xargs -P 4 -L 1 sh -c '"{sys.executable}" -m distsdk fetch {x} "$0" |
                "{sys.executable}" -m distsdk content ingest "layer-$0" --expected-digest "$0" --expected-size "$1"'
        distsdk content ls -q | sort
        distsdk content ls -q | xargs "{sys.executable}" -m distsdk content rm
        distsdk content ls
    """
    ended = subprocess.run(["sh", "-ec", line], capture_output=True, check=False, timeout=HANGS, env=ENVIRONMENT)
    assert (0, b"") == (ended.returncode, ended.stderr)
    expected = sorted([digest(LAYER), digest(b"amd64")])
    assert (expected, expected) == (sorted(ended.stdout.decode().split()[:2]), ended.stdout.decode().split()[2:])
