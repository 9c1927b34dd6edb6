"""What goes to a worker: it arrives, reads there what it read here, and has no secret with it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
import requests
from dask.base import tokenize

import distsdk
from distsdk import Blob, Cache, Credentials, Digest, Platform, Reference, Retry, Store
from distsdk.errors import Denied
from distsdk.fsspec import DistFile, DistFileSystem
from distsdk.testing import Registry, Stall

from ..support import fork, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeAlias

    Files: TypeAlias = tuple[DistFileSystem, DistFile]

USER, PASSWORD = "somebody", "correct horse battery staple"
LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def archive(files: dict[str, bytes]) -> bytes:
    """Return a layer of files, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


LAYER = archive({"etc/issue": b"hello", "big": os.urandom(200_000)})


def copied(thing: Any) -> Any:  # noqa: ANN401 - whatever it is
    """Return what comes out of a pickle of it."""
    return pickle.loads(pickle.dumps(thing))  # noqa: S301 - our own bytes


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The variables of a new shell, in which nobody is logged in, and caches of the test's own."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    yield
    DistFileSystem.clear_instance_cache()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that gives nothing without a login: an image, and an artifact."""
    with Registry(auth="bearer", logins={USER: PASSWORD}) as registry:
        registry.add_image("x", "1", layers=[LAYER])
        registry.add_artifact("d", "1", artifact_type="a/b", files={"data.bin": LAYER})
        yield registry


@pytest.fixture
def logged_in(registry: Registry, tmp_path: Path) -> Registry:
    """The registry, which docker has a login for."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": LOGIN}}}))
    return registry


def secrets(registry: Registry) -> set[bytes]:
    """Return what nobody may see: password, login, and each token that was sent."""
    tokens = {value.partition(" ")[2] for value in registry.authorizations}
    assert tokens
    return {text.encode() for text in {PASSWORD, LOGIN, *tokens}}


def things(registry: Registry, tmp_path: Path) -> dict[str, Any]:
    """Return what may go to a worker, used before: with a session, a token, and all that is remembered."""
    name = f"{registry.locator('x')}:1"
    session = requests.Session()
    session.headers["X-Secret"] = PASSWORD
    credentials = Credentials(username=USER, password=PASSWORD)
    remote: Any = distsdk.connect(registry.locator("x"), credentials=credentials, session=session)
    manifest = remote.manifest("1")
    blob = remote.fetch(manifest.layers[0])
    assert LAYER == blob.read()
    tags = remote.tags()
    assert ["1"] == list(tags)
    image = distsdk.image(name, remote=remote, platform="linux/amd64", progress=lambda _layer, _count: None)
    assert b"hello" == image.read_bytes("/etc/issue")
    store = Store(tmp_path / "store")
    store.ingest(blob)
    return {
        "reference": Reference.parse(name),
        "locator": remote.locator,
        "remote": remote,
        "manifest": manifest,
        "blob": blob,
        "document": remote.fetch("1"),
        "tags": tags,
        "image": image,
        "layer": image.layers[0],
        "files": image.layers[0].files,
        "store": store,
        "stored": store.blob(blob.digest),
        "cache": Cache(tmp_path / "cache"),
        "platform": Platform.parse("linux/arm64"),
        "policies": (Retry(), distsdk.Timeouts(), distsdk.Limits(), distsdk.Hosts(), credentials),
    }


@pytest.fixture
def files(logged_in: Registry) -> Iterator[Files]:
    """A filesystem, and an open file that was read."""
    fs = DistFileSystem()
    with fs.open(f"dist://{logged_in.locator('d')}:1/data.bin", block_size=1000) as file:
        assert LAYER[:10] == file.read(10)
        yield fs, file


# Secrets


def test_nothing_secret_is_in_a_pickle(logged_in: Registry, files: Files, tmp_path: Path) -> None:
    """Neither password nor login nor token, also where they were given by argument: in none of them, nor nested."""
    found = things(logged_in, tmp_path)
    found |= dict(zip(("filesystem", "file"), files, strict=True))
    found["nested"] = [dict(found), {"deep": (found["image"], [found["file"]])}]
    hidden = secrets(logged_in)
    assert len(hidden) >= 4
    for name, thing in found.items():
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            pickled = pickle.dumps(thing, protocol)
            assert not [secret for secret in hidden if secret in pickled], name
        assert len(pickle.dumps(thing)) < (60_000 if name == "nested" else 10_000), name


def test_the_search_finds_secrets(registry: Registry) -> None:
    """What is looked for is really what was sent."""
    remote = distsdk.connect(registry.locator("x"), credentials=Credentials(username=USER, password=PASSWORD))
    remote.fetch("1")
    assert {"Basic", "Bearer"} <= {value.partition(" ")[0] for value in registry.authorizations}
    assert LOGIN.encode() in secrets(registry)


def test_a_login_that_was_given_stays_behind(registry: Registry) -> None:
    """Where there is no other one, the copy has none: the worker is refused, and says so."""
    remote = distsdk.connect(registry.locator("x"), credentials=Credentials(username=USER, password=PASSWORD))
    blob = remote.fetch(remote.fetch("1").digest)
    copy = copied(blob)
    assert blob.read()
    with pytest.raises(Denied):
        copy.read()


# In another process


WORKER = """
import pickle, sys
from dask.base import tokenize
found = pickle.load(open(sys.argv[1], "rb"))
for name, thing in found.items():
    if name in TOKENS:
        print(name, tokenize(thing, ensure_deterministic=True))
blobs = (found["blob"], found["layer"].blob, found["stored"])
print({blob.read() for blob in blobs} == {found["filesystem"].cat(found["file"].path)})
print(found["image"].read_text("/etc/issue"), found["remote"].manifest("1") == found["manifest"], list(found["tags"]))
found["file"].seek(found["file"].tell() - 10)
print(found["file"].read(10) == found["blob"].read()[:10], found["files"].members[0].path)
"""

#: What has a token of its own: what it is made of is named by digests, or by itself.
TOKENS = [
    *("reference", "locator", "remote", "manifest", "blob", "document", "image", "layer", "store", "stored", "cache"),
    *("platform", "filesystem", "file"),
]


@pytest.mark.slow
def test_a_worker_reads_what_was_read_here(logged_in: Registry, files: Files, tmp_path: Path) -> None:
    """Another process finds a login by itself, reads the same, and makes the same Dask tokens, twice, from any seed."""
    found = things(logged_in, tmp_path)
    found["filesystem"], found["file"] = files
    (tmp_path / "pickle").write_bytes(pickle.dumps(found))
    outputs = set()
    for seed in ("1", "2"):
        code = WORKER.replace("TOKENS", repr(TOKENS))
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "pickle")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (0, "") == (done.returncode, done.stderr)
        outputs.add(done.stdout)
    tokens = [f"{name} {tokenize(found[name], ensure_deterministic=True)}" for name in found if name in TOKENS]
    rest = ["True", "hello True ['1']", "True b'etc/issue'"]
    assert {"\n".join([*tokens, *rest]) + "\n"} == outputs


def test_tokens_are_those_of_the_content(logged_in: Registry, tmp_path: Path) -> None:
    """The same digest has one token, wherever it came from and whatever was asked of it; another digest has another."""
    name = logged_in.locator("x")
    remote = distsdk.connect(name)
    image = distsdk.image(f"{name}:1")
    fresh, used = remote.fetch(image.manifest.layers[0]), remote.fetch(str(image.manifest.layers[0].digest))
    used.read()
    store = Store(tmp_path / "s")
    store.ingest(used)
    same = {tokenize(blob) for blob in (fresh, used, store.blob(used.digest), Blob.from_bytes(LAYER))}
    assert 1 == len(same)
    assert same != {tokenize(Blob.from_bytes(b"other"))}
    image.ls()
    again = distsdk.image(f"{name}@{image.digest}", strict=True)
    assert tokenize(image) == tokenize(again) == tokenize(copied(image))
    assert tokenize(image.layers[0]) == tokenize(again.layers[0])
    logged_in.add_image("x", "2", layers=[archive({"a": b""})])
    assert tokenize(image) != tokenize(distsdk.image(f"{name}:2"))


def test_tokens_of_files(logged_in: Registry, files: Files) -> None:
    """A file's token is that of its content and its position; a filesystem's that of its options, in each thread."""
    fs, file = files
    fs.open(f"{logged_in.locator('d')}:1/data.bin").close()
    tokens = [tokenize(DistFileSystem())]
    thread = threading.Thread(target=lambda: tokens.append(tokenize(DistFileSystem())))
    thread.start()
    thread.join()
    assert [tokenize(fs)] * 2 == tokens
    assert tokenize(fs) != tokenize(DistFileSystem(strict=True)) != tokenize(DistFileSystem(platform="linux/arm64"))
    copy = copied(file)
    assert tokenize(file) == tokenize(copy)
    copy.seek(0)
    assert tokenize(file) != tokenize(copy)


# What arrives


def test_an_image_arrives_without_being_asked_for(logged_in: Registry, tmp_path: Path) -> None:
    """Neither to pickle nor to unpickle costs a request; what was learnt of its layers is found in the cache."""
    image = distsdk.image(f"{logged_in.locator('x')}:1", cache=Cache(tmp_path / "c"), progress=True)
    assert 2 == len([entry for entry in image.walk() if entry.member.kind.name == "FILE"])
    logged_in.reset()
    copy = copied(image)
    assert (image.digest, image.config, image.reference) == (copy.digest, copy.config, copy.reference)
    assert [entry.path for entry in image.walk()] == [entry.path for entry in copy.walk()]
    assert logged_in.count() == 0
    assert b"hello" == copy.read_bytes("/etc/issue")
    assert pickle.dumps(image) == pickle.dumps(copy)


def test_an_image_of_a_store_and_of_a_layout(logged_in: Registry, tmp_path: Path) -> None:
    """So does one that was pulled, and one in files; there is nothing to log in to."""
    name = f"{logged_in.locator('x')}:1"
    distsdk.pull(name, Store(tmp_path / "store"), platform="linux/amd64")
    logged_in.reset()
    for image in (
        distsdk.image(name, store=tmp_path / "store", platform="linux/amd64"),
        distsdk.image(f"{tmp_path / 'store'}:1", platform="linux/amd64"),
    ):
        copy = copied(image)
        assert "hello" == copy.read_text("/etc/issue")
        remote: Any = copied(distsdk.connect(str(tmp_path / "store")))
        assert copy.manifest == remote.manifest("1", platform="linux/amd64")
    assert logged_in.count() == 0


def test_a_filesystem_carries_what_tags_stand_for(logged_in: Registry, files: Files) -> None:
    """A worker reads the version that was read here, also if the tag has moved, and if it knew another one before."""
    path = f"dist://{logged_in.locator('d')}:1/data.bin"
    fs, file = files
    pickled = pickle.dumps((fs, file))
    logged_in.add_artifact("d", "1", artifact_type="a/b", files={"data.bin": b"newer"})
    DistFileSystem.clear_instance_cache()  # another process
    worker = DistFileSystem()
    assert b"newer" == worker.cat(path)
    copy, opened = pickle.loads(pickled)  # noqa: S301 - our own bytes
    assert copy is worker
    assert opened.fs is worker
    assert LAYER == copy.cat(path)
    with opened:
        assert LAYER[10:20] == opened.read(10)
    copy.invalidate_cache()
    assert b"newer" == copy.cat(path)
    assert worker == DistFileSystem.from_json(worker.to_json())


# Forks


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
#: Python 3.12 and newer warn of what these tests are about.
quietly = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@forks
@quietly
def test_a_child_reads_on(logged_in: Registry, files: Files) -> None:
    """Image, filesystem and open file go on in a forked child and in its parent, over connections of their own."""
    image = distsdk.image(f"{logged_in.locator('x')}:1")
    fs, file = files
    image.ls()

    def work() -> None:
        assert "hello" == image.read_text("/etc/issue")
        assert fs.cat(file.path) == LAYER
        file.seek(10)
        assert file.read(50_000) == LAYER[10:50_010]  # more than was received before
        file.close()

    fork(work)()
    assert LAYER[10:] == file.read()
    fork(work)()
    assert "hello" == image.read_text("/etc/issue")


@forks
@quietly
@pytest.mark.parametrize("where", ["manifests", "blobs"])
def test_a_child_waits_for_no_thread_that_it_has_not(logged_in: Registry, where: str) -> None:
    """A fork in the middle of another thread's look at a name, or pass over a layer: the child does it by itself."""
    name = f"{logged_in.locator('x')}:1"
    image, fs = distsdk.image(name), DistFileSystem(skip_instance_cache=True)
    looks: dict[str, Callable[[], object]] = {"manifests": lambda: fs.ls(name), "blobs": image.ls}
    reads: dict[str, Callable[[], object]] = {
        "manifests": lambda: fs.cat(f"{name}/etc/issue"),
        "blobs": lambda: image.layers[0].files.open(image.layers[0].files.members[0]).read(),
    }
    held = threading.Event()
    logged_in.reset()
    logged_in.fault(Stall(after=None, event=held), path=f"/x/{where}/", times=1)
    thread = threading.Thread(target=looks[where])
    thread.start()
    wait_until(lambda: logged_in.count(path=f"/x/{where}/"))
    try:
        fork(reads[where])()
    finally:
        held.set()
        thread.join()


def test_digests_are_what_they_were() -> None:
    """A value of values: equal, and hashed alike."""
    digest = Digest.of(b"x")
    assert {digest: 1} == copied({digest: 1})
