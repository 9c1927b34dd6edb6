"""The contract of remotes, as test suites that every remote inherits, distsdk's own and those of plug-ins.

A test module makes a remote over the content of the suite, and lists the suites for what the remote can do::

    import distsdk
    import pytest
    from distsdk.testing.suite import Content, RemoteSuite, TagListerSuite


    class TestFiles(RemoteSuite, TagListerSuite):
        @pytest.fixture
        def remote(self, content: Content, tmp_path, monkeypatch):
            for digest, raw in content.objects.items():
                file = tmp_path / "some/dir" / digest.algorithm / digest.hex
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(raw)
            for tag, digest in content.tags.items():
                file = tmp_path / "some/dir" / "tags" / tag
                file.parent.mkdir(exist_ok=True)
                file.write_text(str(digest))
            monkeypatch.setenv("FILES_ROOT", str(tmp_path))
            return distsdk.connect("files.example/some/dir")

`RemoteSuite` is for all. `ResolverSuite`, `TagListerSuite`, `CatalogSuite`, `ReferrerListerSuite`, `PushableSuite` and
`DeletableSuite` belong to the protocols in `distsdk.remotes.connect`; a test of `RemoteSuite` fails where a remote has
such a power and its suite is not inherited. A remote that takes pushes has to be a new one for each test.

It takes pytest and hypothesis. ``pytest.register_assert_rewrite("distsdk.testing.suite")`` in a ``conftest.py`` makes
failures tell more.
"""
# ruff: noqa: S101, SIM300 - tests: pytest looks at `assert expected == actual`

from __future__ import annotations

import io
import json
import pickle
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.content.protocols import Catalog, Deletable, Fetcher, Pushable, ReferrerLister, Resolver, TagLister
from distsdk.content.source import CHUNK_SIZE
from distsdk.errors import (
    DigestMismatch,
    DistError,
    DistWarning,
    InvalidDigest,
    InvalidHint,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    PlatformNotFound,
    SizeMismatch,
    UnsupportedDocument,
)
from distsdk.remotes.remote import fetcher_of, require
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index, Manifest
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Locator, Object

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from distsdk.content.protocols import UploadSource

_UNKNOWN = Digest.of(b"what no remote of these suites has")


@frozen
class Content:
    """What the remote under test is over, and nothing else.

    Attributes:
        tags: What each tag names: one of the documents.
        documents: Media type and bytes of manifests and indexes. At least one manifest; and one index with platforms,
            whose children are here, unless the remote can have none. Both with a tag.
        blobs: Bytes of everything else. At least one has more than 256 KiB.
    """

    tags: Mapping[str, Digest] = field(hash=False)
    documents: Mapping[Digest, tuple[str, bytes]] = field(hash=False)
    blobs: Mapping[Digest, bytes] = field(hash=False)

    @property
    def objects(self) -> Mapping[Digest, bytes]:
        """All bytes, of documents and blobs, by digest."""
        return {digest: raw for digest, (_, raw) in self.documents.items()} | dict(self.blobs)

    def descriptor(self, digest: Digest) -> Descriptor:
        """Return what refers to an object; blobs are ``application/octet-stream`` here."""
        media_type = self.documents[digest][0] if digest in self.documents else media.OCTET_STREAM
        return Descriptor(media_type=media_type, digest=digest, size=len(self.objects[digest]))

    def tagged(self, media_types: frozenset[str]) -> tuple[str, Descriptor]:
        """Return the first tag that names a document of one of these media types, and what it names."""
        for tag, digest in self.tags.items():
            if self.documents[digest][0] in media_types:
                return tag, self.descriptor(digest)
        message = f"the content has no tag for any of {', '.join(sorted(media_types))}"
        raise LookupError(message)

    def indexes(self) -> list[tuple[str, Index]]:
        """Return the tags that name an index, and the indexes."""
        found = [(tag, *self.documents[digest]) for tag, digest in self.tags.items()]
        return [(tag, Index.parse(raw, media_type)) for tag, media_type, raw in found if media_type in media.INDEXES]

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """Return how the manifests that are about a document are listed."""
        found = []
        for digest, (media_type, raw) in self.documents.items():
            if media_type in media.MANIFESTS and (manifest := Manifest.parse(raw, media_type)).subject is not None:
                listed = evolve(
                    self.descriptor(digest),
                    artifact_type=manifest.artifact_type or manifest.config.media_type,
                    annotations=manifest.annotations,
                )
                found += [listed] if manifest.subject.digest == subject else []
        return found

    def largest(self) -> tuple[Digest, bytes]:
        """Return the blob that has most bytes, and its digest."""
        return max(self.blobs.items(), key=lambda item: len(item[1]))


def _sample() -> Content:
    """Return an image for two platforms, one more in Docker's words, and blobs of odd sizes."""
    noise = random.Random(2017).randbytes  # noqa: S311 - bytes that do not compress, the same each time
    blobs = {Digest.of(data): data for data in (b"", b"\n", noise(300_007), noise(4_096), noise(1_500_000))}
    # An algorithm is part of a name: the same bytes under another one are another object.
    blobs |= {Digest.of(data, "sha512"): data for data in (noise(70_001), b"\n")}
    layer = next(digest for digest, data in blobs.items() if len(data) == 300_007)
    documents: dict[Digest, tuple[str, bytes]] = {}

    def add(media_type: str, **fields: object) -> Descriptor:
        # Indented: what is hashed are the bytes as they were written.
        raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}, indent=3).encode()
        documents[Digest.of(raw)] = media_type, raw
        return Descriptor(media_type=media_type, digest=Digest.of(raw), size=len(raw))

    def image(platform: Platform, manifest: str, config: str, layer_type: str) -> Descriptor:
        raw = json.dumps({**platform.to_fields(), "rootfs": {"type": "layers", "diff_ids": [str(layer)]}}).encode()
        blobs[Digest.of(raw)] = raw
        return add(
            manifest,
            config=Descriptor(media_type=config, digest=Digest.of(raw), size=len(raw)).to_fields(),
            layers=[Descriptor(media_type=layer_type, digest=layer, size=len(blobs[layer])).to_fields()],
        )

    platforms = [Platform("linux", "amd64"), Platform("linux", "arm64")]
    images = [
        evolve(image(platform, media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER), platform=platform)
        for platform in platforms
    ]
    docker = image(platforms[0], media.DOCKER_MANIFEST, media.DOCKER_CONFIG, media.DOCKER_LAYER)
    index = add(media.OCI_INDEX, manifests=[child.to_fields() for child in images])
    blobs[Digest.of(b"{}")] = b"{}"
    sbom = add(
        media.OCI_MANIFEST,
        artifactType="application/spdx+json",
        config=Descriptor(media_type=media.OCI_EMPTY, digest=Digest.of(b"{}"), size=2).to_fields(),
        layers=[],
        subject=index.to_fields(),
        annotations={"org.example.note": "what is in it"},
    )
    tags = {"latest": index.digest, "7-amd64": images[0].digest, "docker_2.0": docker.digest, "sbom": sbom.digest}
    return Content(tags, documents, blobs)


#: What the suites are over unless a test class has a fixture ``content`` of its own.
SAMPLE = _sample()


class _Suite:
    """The fixtures."""

    @pytest.fixture
    def content(self) -> Content:
        """What the remote has to have. May be overridden, for a remote whose content cannot be chosen."""
        return SAMPLE

    @pytest.fixture
    def remote(self) -> Fetcher:
        """A remote over ``content``; each test class has its own."""
        message = "the test class needs a fixture `remote`, which returns a remote over the fixture `content`"
        raise NotImplementedError(message)


def _bytes(remote: Fetcher, wanted: str | Object | Digest | Descriptor, *hints: str | Hint) -> bytes:
    """Fetch and read: what is wrong may be found out by either."""
    return remote.fetch(wanted, *hints).read()


class RemoteSuite(_Suite):
    """What every remote does: `Remote.fetch`, and all that blobs promise."""

    def test_it_is_a_remote(self, remote: Fetcher) -> None:
        """It has what the protocol asks for, and tells what it was made for."""
        assert isinstance(remote, Fetcher)
        assert isinstance(remote.locator, Locator)
        assert remote.locator == Locator.parse(str(remote.locator))

    @pytest.mark.parametrize("power", ["Resolver", "TagLister", "Catalog", "ReferrerLister", "Pushable", "Deletable"])
    def test_each_power_is_tested(self, remote: Fetcher, power: str) -> None:
        """A remote with an optional power inherits the suite of that power, and no other."""
        protocol, suite = _POWERS[power]
        assert isinstance(fetcher_of(remote), protocol) == isinstance(self, suite), (
            f"{suite.__name__} and {power} go together"
        )

    # What is asked for

    def test_a_tag_names_its_document(self, remote: Fetcher, content: Content) -> None:
        """Bytes, digest, size and media type are those of the document."""
        for tag, digest in content.tags.items():
            blob = remote.fetch(tag)
            assert isinstance(blob, Blob)
            assert content.objects[digest] == blob.read()
            assert content.descriptor(digest) == blob.descriptor
            assert digest == blob.digest

    def test_a_digest_names_its_bytes(self, remote: Fetcher, content: Content) -> None:
        """Documents and blobs, empty ones and those of every algorithm, come by their digest alone."""
        for digest, raw in content.objects.items():
            blob = remote.fetch(str(digest))
            assert digest == blob.digest
            assert raw == blob.read()
            assert len(raw) == blob.size

    def test_a_size_can_be_had_before_the_bytes(self, remote: Fetcher, content: Content) -> None:
        """`Blob.size` of an unread blob is right, and does not read it."""
        for digest, raw in content.objects.items():
            assert len(raw) == remote.fetch(digest).size

    @pytest.mark.parametrize("form", ["Digest", "Object", "Descriptor", "tag@digest"])
    def test_a_digest_can_be_given_in_every_form(self, remote: Fetcher, content: Content, form: str) -> None:
        """A value means what its text means; with a tag beside it, the digest counts."""
        tag = next(iter(content.tags))
        _, manifest = content.tagged(media.MANIFESTS)
        wanted: dict[str, str | Object | Digest | Descriptor] = {
            "Digest": manifest.digest,
            "Object": Object(tag=None, digest=manifest.digest),
            "Descriptor": manifest,
            "tag@digest": f"{tag}@{manifest.digest}",
        }
        for hints in ([], [f"mediatype:{manifest.media_type}"]):
            blob = remote.fetch(wanted[form], *hints)
            assert manifest.digest == blob.digest
            assert content.objects[manifest.digest] == blob.read()

    def test_a_tag_can_be_given_as_an_object(self, remote: Fetcher, content: Content) -> None:
        """`Object` with a tag means what its text means."""
        tag, descriptor = content.tagged(media.MANIFESTS)
        assert descriptor == remote.fetch(Object(tag=tag, digest=None)).descriptor

    def test_a_descriptor_tells_all_beforehand(self, remote: Fetcher, content: Content) -> None:
        """A blob that was fetched by a descriptor has its size and its media type."""
        digest, raw = content.largest()
        wanted = Descriptor(media_type=media.OCI_LAYER_GZIP, digest=digest, size=len(raw))
        blob = remote.fetch(wanted)
        assert wanted == blob.descriptor
        assert raw == blob.read()

    @pytest.mark.parametrize("wanted", ["no-such-tag", str(_UNKNOWN), f"no-such-tag@{_UNKNOWN}"])
    def test_what_is_not_there_is_not_found(self, remote: Fetcher, wanted: str) -> None:
        """An unknown tag or digest is `NotFound`, by the time it is read."""
        with pytest.raises(NotFound):
            _bytes(remote, wanted)

    def test_a_known_tag_does_not_stand_in_for_an_unknown_digest(self, remote: Fetcher, content: Content) -> None:
        """``tag@digest`` is not found where the digest is not, whatever the tag names."""
        with pytest.raises(NotFound):
            _bytes(remote, f"{next(iter(content.tags))}@{_UNKNOWN}")

    def test_what_is_not_there_has_no_size(self, remote: Fetcher) -> None:
        """Asking an unread blob for its size finds out as well."""
        with pytest.raises(NotFound):
            _ = remote.fetch(_UNKNOWN).size

    @pytest.mark.parametrize("wanted", ["", "-x", ".x", "a b", "a/b", "../x", "x" * 129, "ä", "a\n", "@"])
    def test_a_malformed_tag_is_refused(self, remote: Fetcher, wanted: str) -> None:
        """What cannot be a tag is refused before anything is asked for."""
        with pytest.raises((InvalidReference, InvalidDigest)):
            remote.fetch(wanted)

    @pytest.mark.parametrize(
        "wanted",
        [
            "sha256:",
            "sha256:abc",
            f"sha256:{'g' * 64}",
            f"SHA256:{'a' * 64}",
            f"sha256:{'A' * 64}",
            f"md5:{'a' * 32}",
            f"sha512:{'a' * 64}",
            f"sha256:{'a' * 64} ",
            f"sha256:{'a' * 58}/../..",
            "latest@sha256:abc",
        ],
    )
    def test_a_malformed_digest_is_refused(self, remote: Fetcher, wanted: str) -> None:
        """What cannot be a digest, or can never be verified, is refused before anything is asked for."""
        with pytest.raises(InvalidDigest):
            remote.fetch(wanted)

    # Hints

    def test_hints_of_unknown_kinds_are_ignored(self, remote: Fetcher, content: Content) -> None:
        """A hint is a help: one that a remote does not understand changes nothing."""
        tag, descriptor = content.tagged(media.MANIFESTS)
        digest, raw = content.largest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DistWarning)
            assert descriptor == remote.fetch(tag, "colour:blue", Hint("x-cost", "")).descriptor
            assert raw == _bytes(remote, digest, "colour:blue")

    @pytest.mark.parametrize(
        "hint", ["", "blue", ":blue", "size:", "size:many", "size:-1", "mediatype:json", "mediatype:", "platform:/"]
    )
    def test_a_malformed_hint_is_refused(self, remote: Fetcher, content: Content, hint: str) -> None:
        """A hint has a kind, and one of a known kind has a value of that kind."""
        for wanted in (next(iter(content.tags)), str(content.largest()[0])):
            with pytest.raises(InvalidHint):
                remote.fetch(wanted, hint)

    @pytest.mark.parametrize("form", ["tag", "digest", "Descriptor"])
    def test_a_media_type_that_is_right_helps(self, remote: Fetcher, content: Content, form: str) -> None:
        """A document comes when its media type is among those hinted, in whatever order."""
        for tag, digest in content.tags.items():
            descriptor = content.descriptor(digest)
            forms: dict[str, str | Digest | Descriptor] = {"tag": tag, "digest": digest, "Descriptor": descriptor}
            others = [other for other in media.DEFAULT_ACCEPT if other != descriptor.media_type]
            for types in ([descriptor.media_type], [*others, descriptor.media_type], [descriptor.media_type, *others]):
                blob = remote.fetch(forms[form], *(f"mediatype:{media_type}" for media_type in types))
                assert descriptor == blob.descriptor
                assert content.objects[digest] == blob.read()

    @pytest.mark.parametrize("by_digest", [False, True])
    def test_a_media_type_that_is_wrong_is_a_mismatch(self, remote: Fetcher, content: Content, by_digest: bool) -> None:
        """The error has the type that is there, and says which hint would fetch it."""
        for tag, digest in content.tags.items():
            there = content.documents[digest][0]
            hinted = tuple(other for other in media.DEFAULT_ACCEPT if other != there)
            with pytest.raises(MediaTypeMismatch) as caught:
                _bytes(remote, digest if by_digest else tag, *(Hint("mediatype", other) for other in hinted))
            assert there == caught.value.got
            assert hinted == caught.value.expected
            assert f"mediatype:{there}" in str(caught.value)

    def test_a_descriptor_of_another_media_type_is_a_mismatch(self, remote: Fetcher, content: Content) -> None:
        """What refers to a manifest as an index is not believed."""
        _, manifest = content.tagged(media.MANIFESTS)
        with pytest.raises(MediaTypeMismatch):
            _bytes(remote, evolve(manifest, media_type=media.OCI_INDEX))

    def test_a_size_that_is_right_helps(self, remote: Fetcher, content: Content) -> None:
        """A hinted size is the blob's."""
        for digest, raw in content.objects.items():
            blob = remote.fetch(digest, f"size:{len(raw)}")
            assert len(raw) == blob.size
            assert raw == blob.read()

    @pytest.mark.parametrize("by", [-1, 1, 1000])
    def test_a_size_that_is_wrong_is_a_mismatch(self, remote: Fetcher, content: Content, by: int) -> None:
        """Neither a hint nor a descriptor makes bytes of another number pass, be they more or fewer."""
        for digest, raw in content.objects.items():
            wrong = len(raw) + by
            if wrong < 0:
                continue
            with pytest.raises(SizeMismatch) as caught:
                _bytes(remote, digest, f"size:{wrong}")
            assert wrong == caught.value.expected
            with pytest.raises(SizeMismatch):
                _bytes(remote, evolve(content.descriptor(digest), size=wrong))

    def test_a_size_that_is_wrong_is_a_mismatch_for_a_tag(self, remote: Fetcher, content: Content) -> None:
        """A hint about what a tag names counts too."""
        for tag, digest in content.tags.items():
            with pytest.raises(SizeMismatch):
                _bytes(remote, tag, f"size:{content.descriptor(digest).size + 1}")

    def test_a_platform_leads_to_the_child(self, remote: Fetcher, content: Content) -> None:
        """Of an index, by tag or digest, the child for the hinted platform comes."""
        for tag, index in content.indexes():
            assert index.platforms, "the content needs an index with platforms"
            for platform in index.platforms:
                child = content.descriptor(index.select(platform).digest)
                for wanted in (tag, index.digest):
                    blob = remote.fetch(wanted, f"platform:{platform}")
                    assert child == blob.descriptor
                    assert content.objects[child.digest] == blob.read()

    def test_a_platform_and_a_media_type_go_together(self, remote: Fetcher, content: Content) -> None:
        """The hinted media types are those of the child; the index on the way need not be among them."""
        for tag, index in content.indexes():
            child = content.descriptor(index.select(index.platforms[0]).digest)
            platform = f"platform:{index.platforms[0]}"
            assert child == remote.fetch(tag, f"mediatype:{child.media_type}", platform).descriptor
            other = next(iter(media.MANIFESTS - {child.media_type}))
            with pytest.raises(MediaTypeMismatch):
                _bytes(remote, tag, f"mediatype:{other}", platform)

    def test_a_platform_that_is_missing_is_an_error(self, remote: Fetcher, content: Content) -> None:
        """Nothing is chosen in its place; the error lists what there is."""
        for tag, index in content.indexes():
            with pytest.raises(PlatformNotFound) as caught:
                _bytes(remote, tag, "platform:plan9/mips")
            assert "plan9/mips" == caught.value.platform
            assert set(map(str, index.platforms)) == set(caught.value.available)

    def test_a_platform_means_nothing_for_a_manifest(self, remote: Fetcher, content: Content) -> None:
        """A manifest for one platform is its own child."""
        tag, descriptor = content.tagged(media.MANIFESTS)
        assert descriptor == remote.fetch(tag, "platform:linux/amd64").descriptor

    # Whole reads

    def test_a_blob_can_be_read_again(self, remote: Fetcher, content: Content) -> None:
        """Each read gives all of it, by the same blob and by another."""
        digest, raw = content.largest()
        blob = remote.fetch(digest)
        assert raw == blob.read() == blob.read() == _bytes(remote, digest)

    def test_a_document_is_text_and_json(self, remote: Fetcher, content: Content) -> None:
        """`Blob.text` and `Blob.json` are what Python makes of the bytes."""
        for tag, digest in content.tags.items():
            raw = content.objects[digest]
            assert raw.decode() == remote.fetch(tag).text() == remote.fetch(digest).text()
            assert json.loads(raw) == remote.fetch(tag).json() == remote.fetch(digest).json()

    def test_a_stream_has_chunks_of_bounded_size(self, remote: Fetcher, content: Content) -> None:
        """Chunks are not empty, not larger than promised, and together the bytes."""
        for digest, raw in content.objects.items():
            chunks = list(remote.fetch(digest).stream())
            assert all(0 < len(chunk) <= CHUNK_SIZE for chunk in chunks)
            assert raw == b"".join(chunks)

    def test_a_read_is_bounded(self, remote: Fetcher, content: Content) -> None:
        """A blob of more bytes than the limit is refused, one of just as many is not."""
        digest, raw = content.largest()
        assert raw == remote.fetch(digest).read(limit=len(raw))
        with pytest.raises(LimitExceeded):
            remote.fetch(digest).read(limit=len(raw) - 1)

    def test_a_blob_can_be_saved(self, remote: Fetcher, content: Content, tmp_path: Path) -> None:
        """The file has the bytes, and nothing lies beside it."""
        digest, raw = content.largest()
        folder = tmp_path / "saved"
        folder.mkdir()
        assert folder / "blob" == remote.fetch(digest).save(folder / "blob")
        assert raw == (folder / "blob").read_bytes()
        assert ["blob"] == [path.name for path in folder.iterdir()]

    # Partial reads

    def test_an_abandoned_read_leaves_the_remote_usable(self, remote: Fetcher, content: Content) -> None:
        """Streams and readers may be given up in the middle, many of them, closed or not."""
        digest, raw = content.largest()
        for _ in range(10):
            stream = remote.fetch(digest).stream()
            assert raw.startswith(next(stream))
            del stream
            reader = remote.fetch(digest).open()
            assert raw[:1000] == reader.read(1000)
            reader.close()
        assert raw == _bytes(remote, digest)

    def test_readers_that_are_half_read_do_not_wait_for_each_other(self, remote: Fetcher, content: Content) -> None:
        """With forty readers open at once, each goes on where it was."""
        digest, raw = content.largest()
        with ExitStack() as stack:
            readers = [stack.enter_context(remote.fetch(digest).open()) for _ in range(40)]
            assert all(reader.read(100_000) == raw[:100_000] for reader in readers)
            assert all(reader.read() == raw[100_000:] for reader in reversed(readers))

    def test_an_unread_blob_holds_nothing_open(self, remote: Fetcher, content: Content) -> None:
        """Fetching by digest, and opening, takes no connection and no file."""
        digest, raw = content.largest()
        assert raw == _bytes(remote, digest)
        open_files = Path("/dev/fd")
        if not open_files.exists():
            pytest.skip("this system has no /dev/fd, which tells what is open")
        before = len(list(open_files.iterdir()))
        kept = [remote.fetch(digest) for _ in range(50)]
        readers = [blob.open() for blob in kept]
        assert len(list(open_files.iterdir())) <= before
        assert 50 == len(readers)

    def test_a_reader_is_like_a_file(self, remote: Fetcher, content: Content) -> None:
        """Whatever is read and sought, the answers are those of `io.BytesIO` over the same bytes."""
        digest, raw = content.largest()
        blob = remote.fetch(digest)

        @settings(max_examples=40, deadline=None)
        @given(st.lists(_STEP, max_size=12))
        def check(steps: list[tuple[str, int]]) -> None:
            with blob.open() as reader, io.BytesIO(raw) as model:
                for step, number in steps:
                    expected, actual = _STEPS[step](reader, model, number, len(raw))
                    assert expected == actual
                    assert model.tell() == reader.tell()

        check()

    def test_a_reader_ends_where_the_bytes_end(self, remote: Fetcher, content: Content) -> None:
        """At the end and beyond it there is nothing to read, and no error; before the start there is nothing at all."""
        for digest, raw in content.objects.items():
            with remote.fetch(digest).open() as reader:
                assert len(raw) == reader.seek(0, io.SEEK_END)
                assert b"" == reader.read(10) == reader.read() == reader.read1(1)
                assert len(raw) + 5 == reader.seek(5, io.SEEK_END)
                assert b"" == reader.read()
                with pytest.raises(ValueError, match="negative"):
                    reader.seek(-1)

    def test_a_closed_reader_reads_no_more(self, remote: Fetcher, content: Content) -> None:
        """Reading from it, or asking where it is, is a ValueError as for every file; closing it again is none."""
        reader = remote.fetch(content.largest()[0]).open()
        reader.close()
        reader.close()
        for method in (reader.read, reader.tell, reader.read1):
            with pytest.raises(ValueError, match="closed"):
                method()

    def test_a_reader_gives_lines(self, remote: Fetcher, content: Content) -> None:
        """Iterating over a reader gives lines, also through `io.TextIOWrapper`."""
        _, descriptor = content.tagged(media.DOCUMENTS)
        raw = content.objects[descriptor.digest]
        with remote.fetch(descriptor.digest).open() as reader:
            assert raw.splitlines(keepends=True) == list(reader)
        # typeshed wants a name, as files have one.
        with io.TextIOWrapper(remote.fetch(descriptor.digest).open(), encoding="utf-8", newline="") as text:  # type: ignore[type-var]
            assert raw.decode() == text.read()

    @pytest.mark.parametrize("strict", [False, True])
    def test_a_reader_verifies_what_is_read_from_front_to_back(
        self,
        remote: Fetcher,
        content: Content,
        strict: bool,
    ) -> None:
        """Its trust is ``verified`` after the last byte, however the bytes were divided."""
        for digest, raw in content.objects.items():
            with remote.fetch(digest).open(strict=strict) as reader:
                parts = list(iter(lambda f=reader: f.read(65_537), b""))  # type: ignore[misc] # bound at once
                assert raw == b"".join(parts)
                assert "verified" == reader.trust

    def test_a_partial_read_says_what_it_is(self, remote: Fetcher, content: Content) -> None:
        """Bytes from the middle of a blob are not verified, and do not claim to be."""
        digest, raw = content.largest()
        with remote.fetch(digest).open() as reader:
            reader.seek(-1000, io.SEEK_END)
            assert raw[-1000:] == reader.read()
            assert "unverified" == reader.trust

    # Sharing

    def test_threads_may_share_a_remote(self, remote: Fetcher, content: Content) -> None:
        """Eight threads that fetch and read at once each get their bytes."""
        wanted = list(content.objects.items()) * 4
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda item: _bytes(remote, item[0]), wanted))
        assert [raw for _, raw in wanted] == got

    def test_threads_may_share_a_blob(self, remote: Fetcher, content: Content) -> None:
        """Eight threads that read one blob, whole or in parts, do not disturb each other."""
        digest, raw = content.largest()
        blob = remote.fetch(digest)

        def read(number: int) -> bytes:
            if number % 2:
                return blob.read()
            with blob.open() as reader:
                reader.seek(number * 1000)
                return raw[: number * 1000] + reader.read()

        with ThreadPoolExecutor(8) as pool:
            assert [raw] * 16 == list(pool.map(read, range(16)))

    def test_a_remote_can_be_pickled(self, remote: Fetcher, content: Content) -> None:
        """The copy is of the same locator and fetches the same, also after the original was used."""
        digest, raw = content.largest()
        assert raw == _bytes(remote, digest)
        copy: Fetcher = pickle.loads(pickle.dumps(remote))  # noqa: S301 - our own bytes
        assert remote.locator == copy.locator
        assert raw == _bytes(copy, digest)

    def test_a_blob_can_be_pickled(self, remote: Fetcher, content: Content) -> None:
        """The copy reads the same, whether the original was read or not; the bytes are not part of a lazy one."""
        digest, raw = content.largest()
        blob = remote.fetch(digest)
        for _ in range(2):
            pickled = pickle.dumps(blob)
            assert len(pickled) < len(raw) / 10
            copy: Blob = pickle.loads(pickled)  # noqa: S301 - our own bytes
            assert raw == copy.read() == blob.read()
        _, descriptor = content.tagged(media.MANIFESTS)
        document: Blob = pickle.loads(pickle.dumps(remote.fetch(descriptor)))  # noqa: S301 - our own bytes
        assert descriptor == document.descriptor

    def test_reprs_are_one_line(self, remote: Fetcher, content: Content) -> None:
        """Fetcher, blob and reader show themselves in a line, without finding out anything for it."""
        digest, _ = content.largest()
        blob = remote.fetch(_UNKNOWN)  # finding out would fail
        reader = remote.fetch(digest).open()
        for shown in (repr(remote), repr(blob), repr(reader)):
            assert shown.isprintable()
            assert len(shown) < 500
        assert str(_UNKNOWN) in repr(blob)
        assert str(remote.locator) in repr(remote)


class ResolverSuite(_Suite):
    """What a remote does that is a `Resolver`."""

    @pytest.fixture
    def resolver(self, remote: Fetcher) -> Resolver:
        """The remote under test."""
        return require(remote, Resolver)

    def test_a_tag_resolves(self, resolver: Resolver, content: Content) -> None:
        """Media type, digest and size are those of the document."""
        for tag, digest in content.tags.items():
            assert content.descriptor(digest) == resolver.resolve(tag) == resolver.resolve(Object(tag=tag, digest=None))

    def test_a_digest_resolves(self, resolver: Resolver, content: Content) -> None:
        """A document's descriptor is whole; a blob's size is right."""
        for digest, raw in content.objects.items():
            got = resolver.resolve(digest)
            assert (digest, len(raw)) == (got.digest, got.size)
            assert resolver.resolve(str(digest)) == got
            if digest in content.documents:
                assert content.descriptor(digest) == got

    def test_what_resolves_can_be_fetched(self, remote: Fetcher, resolver: Resolver, content: Content) -> None:
        """The descriptor of a tag fetches what the tag names."""
        for tag, digest in content.tags.items():
            assert content.objects[digest] == _bytes(remote, resolver.resolve(tag))

    def test_the_digest_counts(self, resolver: Resolver, content: Content) -> None:
        """``tag@digest`` is what the digest names."""
        tag = next(iter(content.tags))
        _, manifest = content.tagged(media.MANIFESTS)
        assert manifest == resolver.resolve(f"{tag}@{manifest.digest}")

    def test_a_platform_resolves_to_the_child(self, resolver: Resolver, content: Content) -> None:
        """Hints mean what they mean for `Remote.fetch`."""
        for tag, index in content.indexes():
            child = content.descriptor(index.select(index.platforms[0]).digest)
            assert child == resolver.resolve(tag, f"platform:{index.platforms[0]}")
            with pytest.raises(PlatformNotFound):
                resolver.resolve(tag, "platform:plan9/mips")

    def test_a_wrong_media_type_is_a_mismatch(self, resolver: Resolver, content: Content) -> None:
        """Of several hinted types one has to be right."""
        for tag, digest in content.tags.items():
            there = content.documents[digest][0]
            others = [f"mediatype:{other}" for other in media.DEFAULT_ACCEPT if other != there]
            with pytest.raises(MediaTypeMismatch) as caught:
                resolver.resolve(tag, *others)
            assert there == caught.value.got
            assert content.descriptor(digest) == resolver.resolve(tag, *others, f"mediatype:{there}")

    @pytest.mark.parametrize(
        ("wanted", "hints", "error"),
        [
            ("no-such-tag", (), NotFound),
            (str(_UNKNOWN), (), NotFound),
            (f"latest@{_UNKNOWN}", (), NotFound),
            ("a b", (), InvalidReference),
            ("sha256:abc", (), InvalidDigest),
            ("latest", ("blue",), InvalidHint),
        ],
    )
    def test_what_cannot_be_resolved_is_an_error(
        self, resolver: Resolver, wanted: str, hints: tuple[str, ...], error: type[DistError]
    ) -> None:
        """The errors are those of `Remote.fetch`."""
        with pytest.raises(error):
            resolver.resolve(wanted, *hints)


class TagListerSuite(_Suite):
    """What a remote does that is a `TagLister`."""

    @pytest.fixture
    def lister(self, remote: Fetcher) -> TagLister:
        """The remote under test."""
        return require(remote, TagLister)

    def test_all_tags_are_listed_once(self, lister: TagLister, content: Content) -> None:
        """Every tag is there, and no other."""
        assert sorted(content.tags) == sorted(lister.tags())

    def test_a_listing_can_be_read_again(self, lister: TagLister, content: Content) -> None:
        """Each iteration starts over, also when the one before was given up."""
        tags = lister.tags()
        assert next(iter(tags)) in content.tags
        assert list(tags) == list(tags)
        assert len(content.tags) == len(list(tags))

    def test_every_tag_can_be_fetched(self, remote: Fetcher, lister: TagLister, content: Content) -> None:
        """What is listed is there."""
        assert dict(content.tags) == {tag: remote.fetch(tag).digest for tag in lister.tags()}


class CatalogSuite(_Suite):
    """What a remote does that is a `Catalog`."""

    @pytest.fixture
    def repositories(self) -> Collection[str]:
        """The paths of all repositories on the remote's host; each test class has its own."""
        message = "the test class needs a fixture `repositories`, which returns the paths of all there are"
        raise NotImplementedError(message)

    def test_all_repositories_are_listed_once(self, remote: Fetcher, repositories: Collection[str]) -> None:
        """Every repository is there, and no other; each iteration starts over."""
        catalog = require(remote, Catalog).catalog()
        assert next(iter(catalog)) in repositories
        assert sorted(repositories) == sorted(catalog) == sorted(catalog)

    def test_the_remotes_own_repository_is_listed(self, remote: Fetcher) -> None:
        """What the remote was made for is one of them."""
        assert remote.locator.path in list(require(remote, Catalog).catalog())


class ReferrerListerSuite(_Suite):
    """What a remote does that is a `ReferrerLister`."""

    @pytest.fixture
    def referrer_lister(self, remote: Fetcher) -> ReferrerLister:
        """The remote under test."""
        return require(remote, ReferrerLister)

    def test_all_that_refers_to_a_document_is_listed(self, referrer_lister: ReferrerLister, content: Content) -> None:
        """Each referrer once, with its type and its annotations; in every form of the digest, and again."""
        for digest in content.documents:
            expected = content.referrers(digest)
            for form in (digest, str(digest), content.descriptor(digest)):
                listed = referrer_lister.referrers(form)
                assert expected == list(listed) == list(listed)

    def test_referrers_are_chosen_by_their_type(self, referrer_lister: ReferrerLister, content: Content) -> None:
        """Those of another type are left out."""
        for digest in content.documents:
            for referrer in content.referrers(digest):
                kind = referrer.artifact_type
                assert referrer in list(referrer_lister.referrers(digest, artifact_type=kind))
            assert [] == list(referrer_lister.referrers(digest, artifact_type="application/x-none"))

    def test_nothing_refers_to_what_is_not_there(self, referrer_lister: ReferrerLister) -> None:
        """A document that the remote does not have has no referrers, and that is no error; what is no digest is one."""
        listed = referrer_lister.referrers(_UNKNOWN)
        assert str(_UNKNOWN) in repr(listed)
        assert [] == list(listed)
        with pytest.raises(InvalidDigest):
            referrer_lister.referrers("latest")

    def test_a_list_of_referrers_shows_itself(self, referrer_lister: ReferrerLister, content: Content) -> None:
        """In one line, and without reading."""
        for digest in content.documents:
            listed = referrer_lister.referrers(digest)
            assert "not read yet" in repr(listed)
            found = list(listed)
            assert repr(listed).isprintable()
            assert all(one.digest.short in repr(listed) for one in found[:1])


class PushableSuite(_Suite):
    """What a remote does that is `Pushable`. The fixture ``remote`` makes a new one, with content of its own."""

    @pytest.fixture
    def pushable(self, remote: Fetcher) -> Pushable:
        """The remote under test."""
        return require(remote, Pushable)

    @pytest.mark.parametrize("size", [0, 1, 100_003, CHUNK_SIZE + 1])
    @pytest.mark.parametrize("form", ["bytes", "path", "file", "pipe", "pieces", "blob"])
    def test_a_blob_can_be_pushed_from_anything(
        self, remote: Fetcher, pushable: Pushable, tmp_path: Path, form: str, size: int
    ) -> None:
        """Whatever the bytes come from, they are there afterwards, under their digest."""
        raw = random.Random(size).randbytes(size)  # noqa: S311 - bytes, the same each time
        counts: list[int] = []
        with _source(form, raw, tmp_path) as source:
            pushed = pushable.push_blob(source, media_type=media.OCI_LAYER, on_progress=counts.append)
        assert Descriptor(media.OCI_LAYER, Digest.of(raw), size) == pushed
        assert raw == remote.fetch(pushed.digest).read()
        assert pushable.has(pushed)
        assert size == counts[-1]
        assert max(counts) == size

    @pytest.mark.parametrize("form", ["bytes", "path", "file", "pipe", "pieces"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_what_a_blob_has_to_be_is_what_it_is(
        self, remote: Fetcher, pushable: Pushable, tmp_path: Path, form: str, algorithm: str
    ) -> None:
        """With a descriptor, the blob has that digest, and the descriptor is what is returned."""
        raw = random.Random(form).randbytes(70_001)  # noqa: S311 - as above
        wanted = Descriptor(media.OCI_LAYER, Digest.of(raw, algorithm), len(raw), annotations={"a": "b"})
        assert not pushable.has(wanted)
        with _source(form, raw, tmp_path) as source:
            assert wanted == pushable.push_blob(source, descriptor=wanted)
        assert raw == remote.fetch(wanted.digest).read()

    @pytest.mark.parametrize("form", ["bytes", "path", "file", "pipe", "pieces"])
    @pytest.mark.parametrize(
        ("wrong", "error"), [(b"other", DigestMismatch), (b"", SizeMismatch), (b"many more", SizeMismatch)]
    )
    def test_other_bytes_are_refused(
        self, pushable: Pushable, tmp_path: Path, form: str, wrong: bytes, error: type[DistError]
    ) -> None:
        """What is not what the descriptor says is an error, and nothing is there under that digest."""
        wanted = Descriptor(media.OCTET_STREAM, Digest.of(b"right"), 5)
        with _source(form, wrong, tmp_path) as source, pytest.raises(error):
            pushable.push_blob(source, descriptor=wanted)
        assert not pushable.has(wanted)

    def test_what_is_there_is_not_read(self, pushable: Pushable, content: Content) -> None:
        """A blob that the remote has costs nothing, and the progress says that it is there."""
        digest, raw = content.largest()
        counts: list[int] = []
        wanted = Descriptor(media.OCI_LAYER, digest, len(raw))
        assert wanted == pushable.push_blob(
            map(pytest.fail, ["it is read"]), descriptor=wanted, on_progress=counts.append
        )
        assert [len(raw)] == counts

    def test_what_the_source_raises_is_raised(self, pushable: Pushable) -> None:
        """An error of the source is the caller's to see, and no fault of the remote's, be it of a connection."""
        wanted = Descriptor(media.OCTET_STREAM, Digest.of(b"right"), 5)
        for failure in (ConnectionResetError("the source broke"), NotFound("gone"), KeyError("x")):

            def pieces(failure: Exception = failure) -> Iterator[bytes]:
                yield b"ri"
                raise failure

            with pytest.raises(type(failure)) as caught:
                pushable.push_blob(pieces(), descriptor=wanted)
            assert failure is caught.value
        assert not pushable.has(wanted)

    def test_what_is_no_bytes_is_refused(self, pushable: Pushable) -> None:
        """A text is a TypeError, as are pieces of text."""
        for source in ("text", iter(["text"]), io.StringIO("text")):
            with pytest.raises(TypeError, match="bytes"):
                pushable.push_blob(source)  # type: ignore[arg-type] # that is the point

    def test_a_document_can_be_pushed(self, remote: Fetcher, pushable: Pushable) -> None:
        """Byte for byte, found by its digest and by its tag, which moves."""
        tags = []
        for note in ("one", "two"):
            raw, media_type = _artifact(pushable, note)
            pushed = pushable.push_document(raw, media_type, tag="mine")
            assert Descriptor(media_type, Digest.of(raw), len(raw)) == pushed
            assert pushable.has(pushed)
            tags.append(remote.fetch("mine").digest)
            assert raw == remote.fetch("mine").read() == remote.fetch(pushed).read()
        assert tags[0] != tags[1]
        assert tags[0] == remote.fetch(tags[0], f"mediatype:{media.OCI_MANIFEST}").digest

    def test_a_document_can_be_pushed_without_a_name(self, remote: Fetcher, pushable: Pushable) -> None:
        """By its digest alone, as the children of an index are; then the index."""
        raw, media_type = _artifact(pushable, "child")
        child = pushable.push_document(raw, media_type)
        assert raw == remote.fetch(child).read()
        fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [child.to_fields()]}
        index = pushable.push_document(json.dumps(fields).encode(), media.OCI_INDEX, tag="both")
        assert index == remote.fetch("both").descriptor

    @pytest.mark.parametrize(
        ("raw", "media_type", "error"),
        [
            (b"{", media.OCI_MANIFEST, MalformedDocument),
            (b"[]", media.OCI_INDEX, MalformedDocument),
            (b'{"schemaVersion": 2, "manifests": []}', media.OCI_MANIFEST, MalformedDocument),
            (b'{"schemaVersion": 2, "mediaType": "a/b"}', media.OCI_INDEX, MediaTypeMismatch),
            (b'{"schemaVersion": 1}', media.OCI_MANIFEST, UnsupportedDocument),
            (b"{}", "application/json", UnsupportedDocument),
            (b"{}", "nonsense", MalformedDocument),
        ],
    )
    def test_what_is_no_document_is_not_pushed(
        self, remote: Fetcher, pushable: Pushable, raw: bytes, media_type: str, error: type[DistError]
    ) -> None:
        """What nobody could read afterwards is refused before anything is sent."""
        with pytest.raises(error):
            pushable.push_document(raw, media_type, tag="bad")
        with pytest.raises(NotFound):
            _bytes(remote, "bad")

    def test_what_is_no_tag_is_refused(self, pushable: Pushable) -> None:
        """An InvalidReference, before anything is sent."""
        raw, media_type = _artifact(pushable, "x")
        for tag in ("", "a b", "../x", "-x", str(_UNKNOWN)):
            with pytest.raises((InvalidReference, InvalidDigest)):
                pushable.push_document(raw, media_type, tag=tag)

    def test_it_knows_what_it_has(self, pushable: Pushable, content: Content) -> None:
        """Documents and blobs, by digest and size."""
        for digest in content.objects:
            assert pushable.has(content.descriptor(digest))
        assert not pushable.has(Descriptor(media.OCTET_STREAM, _UNKNOWN, 5))
        assert not pushable.has(Descriptor(media.OCI_MANIFEST, _UNKNOWN, 5))
        digest, raw = content.largest()
        with pytest.raises(SizeMismatch):
            pushable.has(Descriptor(media.OCTET_STREAM, digest, len(raw) + 1))

    def test_threads_may_push_at_once(self, remote: Fetcher, pushable: Pushable) -> None:
        """Blobs, also the same one, and documents."""

        def push(number: int) -> Descriptor:
            pushable.push_blob(b"the same")
            pushable.push_blob(b"%d" % number * 1000)
            raw, media_type = _artifact(pushable, f"{number}")
            return pushable.push_document(raw, media_type, tag=f"t{number}")

        with ThreadPoolExecutor(8) as pool:
            pushed = list(pool.map(push, range(16)))
        assert pushed == [remote.fetch(f"t{number}").descriptor for number in range(16)]
        assert b"the same" == remote.fetch(Digest.of(b"the same")).read()
        assert all(b"%d" % n * 1000 == remote.fetch(Digest.of(b"%d" % n * 1000)).read() for n in range(16))

    def test_a_pushed_subject_has_a_referrer(self, remote: Fetcher, pushable: Pushable) -> None:
        """What is pushed with a ``subject`` is listed by who lists referrers, once, with its type and annotations."""
        raw, media_type = _artifact(pushable, "subject")
        subject = pushable.push_document(raw, media_type, tag="subject")
        signature, media_type = _artifact(pushable, "signature", subject)
        pushed = pushable.push_document(signature, media_type)
        pushable.push_document(signature, media_type)
        fetcher = fetcher_of(remote)
        if isinstance(fetcher, ReferrerLister):
            expected = evolve(pushed, artifact_type="application/x-note", annotations={"note": "signature"})
            assert [expected] == list(fetcher.referrers(subject))


class DeletableSuite(_Suite):
    """What a remote does that is `Deletable`. The fixture ``remote`` makes a new one, with content of its own."""

    @pytest.fixture
    def deletable(self, remote: Fetcher) -> Deletable:
        """The remote under test."""
        return require(remote, Deletable)

    def test_a_tag_can_be_removed(self, remote: Fetcher, deletable: Deletable, content: Content) -> None:
        """The document stays, by its digest."""
        tag, descriptor = content.tagged(media.MANIFESTS)
        deletable.delete(tag)
        with pytest.raises(NotFound):
            _bytes(remote, tag)
        assert content.objects[descriptor.digest] == _bytes(remote, descriptor)

    def test_what_has_a_digest_can_be_removed(self, remote: Fetcher, deletable: Deletable, content: Content) -> None:
        """A manifest goes with its tags, and so does a blob."""
        tag, descriptor = content.tagged(media.MANIFESTS)
        largest, _ = content.largest()
        deletable.delete(descriptor.digest)
        deletable.delete(str(largest))
        for gone in (tag, descriptor, largest):
            with pytest.raises(NotFound):
                _bytes(remote, gone)

    @pytest.mark.parametrize("wanted", ["no-such-tag", str(_UNKNOWN), f"latest@{_UNKNOWN}"])
    def test_what_is_not_there_cannot_be_removed(self, remote: Fetcher, deletable: Deletable, wanted: str) -> None:
        """It is `NotFound`, and nothing else is removed in its place."""
        with pytest.raises(NotFound):
            deletable.delete(wanted)
        assert _bytes(remote, "latest")


@contextmanager
def _source(form: str, raw: bytes, folder: Path) -> Iterator[UploadSource]:
    """Yield bytes in one of the forms that they are pushed in."""
    path = folder / "source"
    path.write_bytes(raw)
    if form == "file":
        with path.open("rb") as file:
            yield file
    elif form == "pipe":
        yield _Pipe(raw)
    else:
        forms: dict[str, UploadSource] = {
            "bytes": raw,
            "path": path,
            "pieces": (raw[start : start + 65_537] for start in range(0, len(raw), 65_537)),
            "blob": Blob.from_bytes(raw),
        }
        yield forms[form]


class _Pipe(io.RawIOBase):
    """Bytes that can be read once."""

    def __init__(self, raw: bytes) -> None:
        self._raw = io.BytesIO(raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as in io
        return self._raw.readinto(buffer)


def _artifact(pushable: Pushable, note: str, subject: Descriptor | None = None) -> tuple[bytes, str]:
    """Return a manifest, and its media type, once what it refers to is there."""
    config = pushable.push_blob(b"{}", media_type=media.OCI_EMPTY)
    fields: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": "application/x-note",
        "config": config.to_fields(),
        "layers": [config.to_fields()],
        "annotations": {"note": note},
        "unknown": [1, 2.5, None],
    }
    if subject is not None:
        fields["subject"] = subject.to_fields()
    return json.dumps(fields, indent=1).encode(), media.OCI_MANIFEST


_POWERS: dict[str, tuple[type[Any], type[_Suite]]] = {
    "Resolver": (Resolver, ResolverSuite),
    "TagLister": (TagLister, TagListerSuite),
    "Catalog": (Catalog, CatalogSuite),
    "ReferrerLister": (ReferrerLister, ReferrerListerSuite),
    "Pushable": (Pushable, PushableSuite),
    "Deletable": (Deletable, DeletableSuite),
}


def _read1(reader: io.BufferedIOBase, model: io.BytesIO, number: int) -> tuple[bytes, bytes]:
    """One read of the source may give less than was asked for, and nothing only at the end."""
    actual = reader.read1(number)
    expected = model.read(len(actual)) if actual else model.read(number)
    return expected, actual


def _readinto(reader: io.BufferedIOBase, model: io.BytesIO, number: int) -> tuple[object, object]:
    buffers = bytearray(number), bytearray(number)
    counts = model.readinto(buffers[0]), reader.readinto(buffers[1])
    return (counts[0], buffers[0]), (counts[1], buffers[1])


#: Each takes the reader, the model, a number from 0 to the size and a little more, and the size; it returns what the
#: model gave and what the reader gave.
_STEPS: dict[str, Callable[[io.BufferedIOBase, io.BytesIO, int, int], tuple[object, object]]] = {
    "read": lambda reader, model, number, _: (model.read(number), reader.read(number)),
    "read a little": lambda reader, model, number, _: (model.read(number % 100), reader.read(number % 100)),
    "read all": lambda reader, model, _, __: (model.read(), reader.read()),
    "read None": lambda reader, model, _, __: (model.read(None), reader.read(None)),
    "read1": lambda reader, model, number, _: _read1(reader, model, number),
    "readinto": lambda reader, model, number, _: _readinto(reader, model, number),
    "seek": lambda reader, model, number, _: (model.seek(number), reader.seek(number)),
    "seek on": lambda reader, model, number, _: (model.seek(number, 1), reader.seek(number, 1)),
    "seek on a little": lambda reader, model, number, _: (model.seek(number % 5000, 1), reader.seek(number % 5000, 1)),
    "seek back": lambda reader, model, number, _: (
        model.seek(-min(number, model.tell()), 1),
        reader.seek(-min(number, reader.tell()), 1),
    ),
    "seek from the end": lambda reader, model, number, size: (
        model.seek(-min(number, size), 2),
        reader.seek(-min(number, size), 2),
    ),
}
_STEP = st.tuples(st.sampled_from(sorted(_STEPS)), st.one_of(st.integers(0, 70_000), st.integers(0, 2_000_000)))
