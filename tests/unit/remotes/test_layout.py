"""Layouts: what images in them are called, and what is refused there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Remote
from distsdk.errors import (
    Denied,
    DigestMismatch,
    DistError,
    DistWarning,
    InvalidConfig,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    SizeMismatch,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.layout import reader
from distsdk.spec import media_types as media
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REF_NAME, IMAGE_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


class Made:
    """A layout in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []
        (folder / "blobs/sha256").mkdir(parents=True)
        self.write("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self.write("index.json", {"schemaVersion": 2, "manifests": []})

    def write(self, name: str, content: object) -> None:
        """Write a file; what is not bytes becomes JSON."""
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def blob(self, raw: bytes) -> Path:
        """Write a blob."""
        path = self.folder / "blobs/sha256" / Digest.of(raw).hex
        path.write_bytes(raw)
        return path

    def add(self, fields: Mapping[str, object], *names: str, **entry: object) -> Digest:
        """Add a document under names, each with its annotation (``name`` is ``ref.name``, or ``key=name``)."""
        raw = json.dumps(fields).encode()
        self.blob(raw)
        media_type = str(fields.get("mediaType", media.OCI_MANIFEST))
        made = {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw), **entry}
        annotations: list[dict[str, str]] = []
        for name in names:
            key, equals, value = name.partition("=")
            annotations.append({key: value} if equals else {REF_NAME: name})
        self.entries += [{**made, "annotations": found} for found in annotations or [{}]]
        self.write("index.json", {"schemaVersion": 2, "manifests": self.entries})
        return Digest.of(raw)

    def image(self, content: str, *names: str, **entry: object) -> Digest:
        """Add a manifest like no other."""
        return self.add({"schemaVersion": 2, "layers": [], "annotations": {"content": content}}, *names, **entry)

    @property
    def remote(self) -> Remote:
        """A remote over it."""
        remote = distsdk.connect(str(self.folder))
        return remote


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty layout."""
    return Made(tmp_path / "layout")


# Names


def test_a_tag_is_a_name_or_the_end_of_one(made: Made) -> None:
    """Other tools write a tag, a full reference, or containerd's annotation: each is asked for by its tag."""
    digests = {
        "7": made.image("a", "7"),
        "8": made.image("b", "docker.io/library/redis:8"),
        "9": made.image("c", f"{IMAGE_NAME}=docker.io/library/redis:9"),
        "10": made.image("d", "redis:10"),
        "11": made.image("e", "localhost:5000/x:11"),
    }
    assert digests == {tag: made.remote.fetch(tag).digest for tag in digests}
    assert list(digests) == list(made.remote.tags())


def test_a_name_that_is_the_tag_wins(made: Made) -> None:
    """An image that is called 7 is no other, whatever else ends in 7."""
    made.image("a", "docker.io/library/redis:7")
    expected = made.image("b", "7")
    assert expected == made.remote.resolve("7").digest


def test_a_tag_that_several_images_have_names_none(made: Made) -> None:
    """The message has the full names and the digests; one image with two names of that tag is no such case."""
    redis, nginx = made.image("a", "docker.io/library/redis:7"), made.image("b", "docker.io/library/nginx:7")
    made.image("c", "docker.io/library/valkey:8", "mirror.example/valkey:8")
    with pytest.raises(NotFound, match=r"2 images in .* have the tag '7', ask for one by its digest") as caught:
        made.remote.fetch("7")
    for name in ("docker.io/library/redis:7", str(redis), "docker.io/library/nginx:7", str(nginx)):
        assert name in str(caught.value)
    assert ["8"] == list(made.remote.tags())
    assert nginx == made.remote.fetch(nginx).digest


@pytest.mark.parametrize("names", [(), ("v1",), ("docker.io/library/redis:7",), ("v1", "v2")])
def test_latest_is_the_only_image_there_is(made: Made, names: tuple[str, ...]) -> None:
    """Where no tag is written, the tag is `latest`: it stands for the only image, named or not."""
    only = made.image("a", *names)
    reference = distsdk.Reference.parse(str(made.folder))
    assert only == made.remote.fetch(reference.object).digest == made.remote.resolve("latest").digest
    with pytest.raises(NotFound):
        made.remote.fetch("other")


def test_latest_is_the_only_image_with_a_name(made: Made) -> None:
    """What has no name, as signatures and other things about an image, does not count beside one that has."""
    made.image("signature")
    only = made.image("a", "v1")
    assert only == made.remote.fetch("latest").digest
    assert ["v1"] == list(made.remote.tags())


def test_latest_is_none_of_several(made: Made) -> None:
    """The message says what there is; an image that is called so is found."""
    made.image("a", "v1")
    made.image("b", "docker.io/library/redis:7")
    with pytest.raises(NotFound, match=r"there are v1, docker\.io/library/redis:7"):
        made.remote.fetch("latest")
    latest = made.image("c", "latest")
    assert latest == made.remote.fetch("latest").digest


def test_names_that_are_none_are_passed_over(made: Made) -> None:
    """Whatever stands in an annotation, it is no name, or shown without harm; nothing is opened for it."""
    for name in ("", "a b", "\x1b[2J", "../../etc", "s3://user:hunter2@bucket/x", "x" * 5000):
        made.image(name, f"{REF_NAME}={name}")
    assert [] == list(made.remote.tags())
    with pytest.raises(NotFound) as caught:
        made.remote.fetch("7")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_an_empty_layout_has_nothing(made: Made) -> None:
    """That is no error until something is asked for."""
    assert [] == list(made.remote.tags())
    with pytest.raises(NotFound, match="no image there has a name"):
        made.remote.fetch("latest")


def test_a_name_that_moves_is_found_where_it_is(made: Made) -> None:
    """`index.json` is read anew each time."""
    remote = made.remote
    first = made.image("a", "v1")
    assert first == remote.fetch("v1").digest
    made.entries.clear()
    second = made.image("b", "v1")
    assert second == remote.fetch("v1").digest


# Where a layout is


def test_a_path_is_looked_at_when_something_is_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To connect is no I/O; ``~`` is the home of whoever reads, and relative paths are theirs too."""
    remote, relative = distsdk.connect("~/layout"), distsdk.connect("./layout")
    assert ("~/layout", "./layout") == (str(remote.locator), str(relative.locator))
    expected = made.image("a", "v1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expected == remote.fetch("v1").digest == relative.fetch("v1").digest
    assert expected == pickle.loads(pickle.dumps(remote)).fetch("v1").digest  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", ["missing", "empty", "file", "file/x", "\0" * 2, "x" * 300])
def test_what_is_no_layout_is_not_found_or_malformed(tmp_path: Path, name: str) -> None:
    """The message names the place and what was looked for."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"no archive")
    if not name.isprintable():
        with pytest.raises(InvalidReference):
            distsdk.connect(f"{tmp_path}/{name}")
        return
    remote = distsdk.connect(f"{tmp_path}/{name}")
    with pytest.raises(MalformedDocument if name == "file" else NotFound, match=r"no tar archive|no image layout"):
        remote.fetch("latest")


def test_what_may_not_be_read_is_denied(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a registry. The system's answer is put in its mouth, since root may read everything."""
    digest = made.image("a", "v1")
    real = os.open

    def answer(path: Any, *arguments: Any, **options: Any) -> int:  # noqa: ANN401 - as os.open
        if path == digest.hex:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", answer)
    monkeypatch.setattr(os, "supports_dir_fd", {answer})
    with pytest.raises(Denied, match=f"{digest.hex} may not be read"):
        made.remote.fetch("v1")


def test_a_link_in_a_layout_is_not_followed(made: Made, tmp_path: Path) -> None:
    """Neither a file's nor a folder's: a layout that somebody made must not choose which files are read here."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:*:0:0")
    digest = Digest.of(secret.read_bytes())
    blob = made.blob(secret.read_bytes())
    assert b"root" in made.remote.fetch(digest).read()
    blob.unlink()
    blob.symlink_to(secret)
    for look in (lambda: made.remote.fetch(digest).read(), lambda: made.remote.fetch(digest).size):
        with pytest.raises(Unsafe, match="is a link"):
            look()
    blob.unlink()
    blob.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Unsafe, match="is a link"):
        made.remote.fetch(digest).read()
    blob.unlink()
    # A folder of blobs that are somebody else's
    (made.folder / "blobs/sha256").rmdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / digest.hex).write_bytes(secret.read_bytes())
    (made.folder / "blobs/sha256").symlink_to(tmp_path / "private")
    with pytest.raises(Unsafe, match="blobs/sha256 is a link"):
        made.remote.fetch(digest).read()


def test_a_layout_may_itself_be_behind_a_link(made: Made, tmp_path: Path) -> None:
    """Its path is the user's own."""
    expected = made.image("a", "v1")
    (tmp_path / "link").symlink_to(made.folder)
    assert expected == distsdk.connect(f"{tmp_path}/link").fetch("v1").digest


def test_a_file_that_is_none_is_not_read(made: Made, tmp_path: Path) -> None:
    """A FIFO keeps nobody waiting, and a folder is no file; neither as an archive."""
    digest = Digest.of(b"x")
    path = made.folder / "blobs/sha256" / digest.hex
    os.mkfifo(path)
    with pytest.raises(Unsafe, match="no regular file"):
        made.remote.fetch(digest).read()
    path.unlink()
    path.mkdir()
    with pytest.raises(NotFound, match="is a folder"):
        made.remote.fetch(digest).read()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unsafe, match="no regular file"):
        distsdk.connect(f"{tmp_path}/fifo").fetch("v1")


# What its files say


@pytest.mark.parametrize(
    ("name", "content", "error", "cause"),
    [
        ("oci-layout", b"", MalformedDocument, "oci-layout is not JSON"),
        ("oci-layout", b"[" * 100_000, MalformedDocument, "nested|not JSON"),
        ("oci-layout", {}, MalformedDocument, "no imageLayoutVersion"),
        ("oci-layout", {"imageLayoutVersion": 1}, MalformedDocument, "is a number"),
        ("oci-layout", {"imageLayoutVersion": "2.0.0"}, UnsupportedDocument, "version '2.0.0'"),
        ("oci-layout", b" " * (4 * 1024 * 1024 + 1), LimitExceeded, "oci-layout has more bytes than the limit"),
        ("index.json", None, MalformedDocument, "index.json is missing"),
        ("index.json", b"{", MalformedDocument, "index.json: .*not JSON"),
        ("index.json", {"schemaVersion": 1}, UnsupportedDocument, "schema 1"),
        ("index.json", {"schemaVersion": 2, "layers": []}, MalformedDocument, "contradicts"),
        ("index.json", {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST}, MediaTypeMismatch, "own mediaType"),
        (
            "index.json",
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": media.OCI_MANIFEST,
                        "digest": "sha256:../x",
                        "size": 1,
                        "annotations": {REF_NAME: "v1"},
                    }
                ],
            },
            MalformedDocument,
            r"'v1': manifests\[0\].digest",
        ),
        (
            "index.json",
            {"schemaVersion": 2, "manifests": [{}] * 200_001},
            LimitExceeded,
            "more than 200,000",
        ),
        ("index.json", b" " * (64 * 1024 * 1024 + 1), LimitExceeded, "index.json has more bytes than the limit"),
    ],
)
def test_what_its_files_say_is_checked(
    made: Made, name: str, content: object, error: type[DistError], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version, size, depth, number: an error that names the file, where the cause is not in itself a name."""
    monkeypatch.setattr(reader, "BEING_WRITTEN", 0)
    if content is None:
        (made.folder / name).unlink()
    else:
        made.write(name, content)
    with pytest.raises(error, match=cause) as caught:
        made.remote.fetch("v1")
    assert len(str(caught.value)) < 500
    with pytest.raises(error):
        list(made.remote.tags())


def test_a_smaller_limit_counts(made: Made) -> None:
    """`Limits.document` is for documents in files, too."""
    digest = made.image("a" * 2000, "v1")
    remote = distsdk.connect(str(made.folder), limits=distsdk.Limits(document=1000))
    with pytest.raises(LimitExceeded, match="more than the 1000"):
        remote.fetch(digest, f"mediatype:{media.OCI_MANIFEST}")


def test_a_document_of_other_bytes_is_refused(made: Made) -> None:
    """A digest is held against the bytes in a layout as anywhere."""
    digest = made.image("a", "v1")
    path = made.folder / "blobs/sha256" / digest.hex
    path.write_bytes(path.read_bytes().replace(b"content", b"CONTENT"))
    with pytest.raises(DigestMismatch):
        made.remote.fetch("v1")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SizeMismatch):
        made.remote.fetch("v1")
    path.unlink()
    with pytest.raises(NotFound, match=digest.hex):
        made.remote.fetch("v1")


def test_a_document_has_the_type_that_all_agree_on(made: Made) -> None:
    """The list of images, the index above it and the body are witnesses; hints are none."""
    body = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}
    made.add(body, "v1", mediaType=media.OCI_MANIFEST)
    with pytest.raises(MediaTypeMismatch):
        made.remote.fetch("v1")
    silent = made.add({"schemaVersion": 2, "layers": [], "config": {}}, "v2", mediaType=media.DOCKER_MANIFEST)
    assert media.DOCKER_MANIFEST == made.remote.fetch("v2").media_type == made.remote.resolve(silent).media_type
    with pytest.raises(MediaTypeMismatch):
        made.remote.fetch(silent, f"mediatype:{media.OCI_MANIFEST}")


def test_a_document_that_nobody_names_is_what_it_says(made: Made) -> None:
    """By its digest alone: by its body, or else as who asks has it from elsewhere; a config is no manifest."""
    said = json.dumps({"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST, "layers": []}).encode()
    silent = json.dumps({"schemaVersion": 2, "layers": []}).encode()
    config = json.dumps({"os": "linux", "config": {}, "rootfs": {}}).encode()
    for raw in (said, silent, config):
        made.blob(raw)
    remote = made.remote
    assert media.DOCKER_MANIFEST == remote.fetch(Digest.of(said)).media_type
    assert media.OCI_MANIFEST == remote.fetch(Digest.of(silent)).media_type
    hint = f"mediatype:{media.DOCKER_MANIFEST}"
    assert media.DOCKER_MANIFEST == remote.fetch(Digest.of(silent), hint).media_type
    with pytest.raises(MediaTypeMismatch):
        remote.fetch(Digest.of(silent), f"mediatype:{media.OCI_INDEX}")
    assert media.OCTET_STREAM == remote.resolve(Digest.of(config)).media_type
    assert media.OCI_CONFIG == remote.resolve(Digest.of(config), f"mediatype:{media.OCI_CONFIG}").media_type


def test_an_image_of_another_kind_is_fetched_by_its_type(made: Made) -> None:
    """A layout may name anything, which then is no document and is not read at once."""
    raw = b"<sbom/>" * 1_000_000
    path = made.blob(raw)
    made.entries.append(
        {
            "mediaType": "application/xml",
            "digest": str(Digest.of(raw)),
            "size": len(raw),
            "annotations": {REF_NAME: "sbom"},
        }
    )
    made.write("index.json", {"schemaVersion": 2, "manifests": made.entries})
    with pytest.raises(MediaTypeMismatch, match="mediatype:application/xml"):
        made.remote.fetch("sbom")
    with pytest.raises(SizeMismatch):
        made.remote.fetch("sbom", "mediatype:application/xml", "size:5")
    blob = made.remote.fetch("sbom", "mediatype:application/xml")
    assert ("application/xml", len(raw), Digest.of(raw)) == (blob.media_type, blob.size, blob.digest)
    path.write_bytes(raw[:-1])
    with pytest.raises(SizeMismatch):
        blob.read()


def test_indexes_within_indexes_have_an_end(made: Made) -> None:
    """A platform is followed through four of them."""
    platform = {"os": "linux", "architecture": "amd64"}
    config = {"mediaType": media.OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
    inner: dict[str, object] = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": []}
    for depth in range(5):
        digest = made.add(inner, f"depth-{depth}", platform=platform)
        entry = {key: value for key, value in made.entries[-1].items() if key != "annotations"}
        inner = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
        if depth < 4:
            found = made.remote.manifest(f"depth-{depth}", platform="linux/amd64")
            assert made.remote.fetch("depth-0").digest == found.digest
    assert digest == made.remote.index("depth-4").digest
    with pytest.raises(LimitExceeded, match="more than 4 deep"):
        made.remote.manifest("depth-4", platform="linux/amd64")


@pytest.mark.parametrize("method", ["fetch", "resolve"])
def test_unknown_hint_kinds_warn_once(made: Made, method: str) -> None:
    """A hint of an unknown kind gives one warning, in the line of the caller."""
    made.add({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}, "1")
    with pytest.warns(DistWarning, match="write mediatype:") as caught:
        getattr(made.remote, method)("1", f"mediatyp:{media.OCI_INDEX}")
    assert [__file__] == [warning.filename for warning in caught]


# Sharing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")  # Python 3.12 and newer warn of it
def test_a_forked_child_does_not_wait_for_a_thread_that_it_has_not(made: Made) -> None:
    """A lock that another thread held when the process forked is nobody's in the child."""
    expected = made.image("a", "v1")
    remote = made.remote
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with remote.fetcher._lock:  # type: ignore[attr-defined]
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - another process
        try:
            signal.alarm(30)  # rather than wait for good
            os.write(writer, str(remote.fetch("v1").digest).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
            assert str(expected).encode() == pipe.read()
    finally:
        done.set()
        thread.join()
        os.waitpid(child, 0)


def test_a_remote_shows_where_it_is(made: Made, tmp_path: Path) -> None:
    """The place in one line, and in a notebook; nothing is read for it."""
    remote = distsdk.connect("s3://bucket/<b>")
    assert "<Remote s3://bucket/<b>>" == repr(remote)
    assert "s3://bucket/&lt;b&gt;" in remote._repr_html_()
    assert "s3://bucket/<b>" in repr(remote.tags())
    (tmp_path / "models.internal").mkdir()
    (tmp_path / "models.internal/hosts.toml").write_text('remote = "layout"\nurl = "https://files.example/models/"\n')
    named = distsdk.connect("models.internal/x", hosts=distsdk.Hosts(hosts_dir=tmp_path))
    assert "<Remote models.internal/x at https://files.example/models/x>" == repr(named)


# Configuration


@pytest.mark.parametrize(
    ("settings", "locator", "error", "cause"),
    [
        ('remote = "layout"', "models.internal/x", InvalidConfig, "url must be"),
        ('remote = "layout"\nurl = "./models"', "models.internal/x", InvalidConfig, "whole path"),
        ('remote = "layout"\nurl = "models"', "models.internal/x", InvalidConfig, "hosts.toml: url: .*no path or URL"),
        ('remote = "layout"\nurl = "oci://x"', "models.internal/x", InvalidConfig, "hosts.toml: url: .*scheme"),
        ('remote = "layout"\nurl = "s3://u:hunter2@b"', "models.internal/x", InvalidConfig, "hosts.toml: url: .*'@'"),
        ('remote = "layout"\nurl = "s3://b/?k=hunter2"', "models.internal/x", InvalidConfig, "hosts.toml: url"),
        ('remote = "layout"\nurl = "s3://b"', "models.internal/", InvalidReference, "add the name of one"),
    ],
)
def test_a_host_that_is_given_to_files_needs_to_know_where(
    tmp_path: Path, settings: str, locator: str, error: type[DistError], cause: str
) -> None:
    """The message names the file of settings, and no password in it."""
    (tmp_path / "models.internal").mkdir()
    (tmp_path / "models.internal/hosts.toml").write_text(settings)
    with pytest.raises(error, match=cause) as caught:
        distsdk.connect(locator, hosts=distsdk.Hosts(hosts_dir=tmp_path))
    assert "hunter2" not in str(caught.value)
