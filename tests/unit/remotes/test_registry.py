"""What the registry remote does beyond the contract: requests it makes, and answers it does not believe."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, field, frozen

import distsdk
from distsdk import Remote
from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    DistError,
    IntegrityError,
    InvalidHint,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    PlatformNotFound,
    RateLimited,
    RegistryError,
    SizeMismatch,
    Unreachable,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.remotes.listing import next_link
from distsdk.spec import media_types as media
from distsdk.spec.choice import MAX_DEPTH
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.platform import Platform
from distsdk.testing import (
    Cut,
    Fault,
    Header,
    IgnoreRange,
    Long,
    NoContentLength,
    NoLink,
    PaddedDigestHeader,
    Pause,
    Redirect,
    Registry,
    Request,
    Response,
    Short,
    Stall,
    Status,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)
from distsdk.transport.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REPOSITORY = "library/x"
DATA = random.Random(2).randbytes(500_003)
DIGEST = Digest.of(DATA)
UNKNOWN = Digest.of(b"unknown")
ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\nSet-Cookie: x\u202e<script>alert(1)</script>"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with `DATA` as a blob, and an image for two platforms as ``7`` and, for one of them, as ``amd64``."""
    with Registry() as registry:
        fill(registry)
        yield registry


def fill(registry: Registry) -> None:
    """Put the usual content there."""
    registry.add_blob(REPOSITORY, DATA)
    amd64 = registry.add_image(REPOSITORY, "amd64", layers=[DATA], platform="linux/amd64")
    arm64 = registry.add_image(REPOSITORY, layers=[DATA], platform="linux/arm64")
    registry.add_index(REPOSITORY, "7", manifests=[amd64, arm64])


def connected(registry: Registry, path: str = REPOSITORY, **options: Any) -> Remote:  # noqa: ANN401 - those of connect
    """The remote of a repository there."""
    remote = distsdk.connect(registry.locator(path), **options)
    return remote


def asked(registry: Registry) -> list[str]:
    """What came, as ``GET blobs sha256:…``, and forget it."""
    found = [
        f"{request.method} {request.path.removeprefix(f'/v2/{REPOSITORY}/').replace('/', ' ')}"
        for request in registry.requests
    ]
    registry.reset()
    return found


def served(registry: Registry, tag: str) -> Descriptor:
    """What a tag there names."""
    return connected(registry).resolve(tag)


# Where an object is looked for


def test_a_digest_is_looked_for_among_blobs_and_then_manifests(registry: Registry) -> None:
    """Without a hint a digest is probably a blob; where it was found is where it is read again."""
    manifest = served(registry, "amd64").digest
    registry.reset()
    blob = connected(registry).fetch(DIGEST)
    assert [] == asked(registry)
    assert DATA == blob.read()
    assert [f"GET blobs {DIGEST}"] == asked(registry)
    blob = connected(registry).fetch(manifest)
    first = blob.read()
    assert [f"GET blobs {manifest}", f"GET manifests {manifest}"] == asked(registry)
    assert first == blob.read()
    assert [f"GET manifests {manifest}"] == asked(registry)
    assert media.OCI_MANIFEST == blob.media_type


def test_a_size_is_asked_for_by_head(registry: Registry) -> None:
    """The HEAD also finds where the body will be read."""
    manifest = served(registry, "amd64")
    registry.reset()
    blob = connected(registry).fetch(manifest.digest)
    assert manifest == blob.descriptor
    assert [f"HEAD blobs {manifest.digest}", f"HEAD manifests {manifest.digest}"] == asked(registry)
    blob.read()
    assert [f"GET manifests {manifest.digest}"] == asked(registry)


def test_what_is_hinted_as_a_manifest_is_looked_for_there_first(registry: Registry) -> None:
    """A manifest media type, in a hint or a descriptor, leads to manifests; a manifest that lies as a blob is found."""
    manifest = served(registry, "amd64")
    registry.reset()
    hinted: list[tuple[Digest | Descriptor, list[str]]] = [
        (manifest.digest, [f"mediatype:{manifest.media_type}"]),
        (manifest.digest, ["platform:linux/amd64"]),
        (manifest, []),
    ]
    for wanted, hints in hinted:
        assert manifest == connected(registry).fetch(wanted, *hints).descriptor
        assert [f"GET manifests {manifest.digest}"] == asked(registry)
    raw = b'{"schemaVersion": 2, "config": {}, "layers": []}'
    lost = registry.add_blob(REPOSITORY, raw)
    assert raw == connected(registry).fetch(evolve(lost, media_type=media.OCI_MANIFEST)).read()
    assert [f"GET manifests {lost.digest}", f"GET blobs {lost.digest}"] == asked(registry)


def test_a_layers_media_type_does_not_make_it_a_document(registry: Registry) -> None:
    """A blob is lazy, whatever its media type, and has that type."""
    blob = connected(registry).fetch(DIGEST, f"mediatype:{media.OCI_LAYER_GZIP}", f"size:{len(DATA)}")
    assert (media.OCI_LAYER_GZIP, len(DATA)) == (blob.media_type, blob.size)
    assert [] == asked(registry)
    assert DATA == blob.read()
    assert [f"GET blobs {DIGEST}"] == asked(registry)


def test_a_tag_is_looked_for_among_manifests_alone(registry: Registry) -> None:
    """A document that was fetched by its tag is here: reading it, opening it and its descriptor cost nothing more."""
    blob = connected(registry).fetch("7")
    assert ["GET manifests 7"] == asked(registry)
    with blob.open() as reader:
        assert blob.read() == reader.read()
        assert "verified" == reader.trust
    assert blob.descriptor.size == len(blob.read())
    assert [] == asked(registry)
    with pytest.raises(NotFound) as caught:
        connected(registry).fetch("8")
    assert ["GET manifests 8"] == asked(registry)
    assert ("MANIFEST_UNKNOWN",) == caught.value.codes
    assert f"{registry.host}/library/x:8" in str(caught.value)


def test_only_404_leads_to_the_next_place(registry: Registry) -> None:
    """Any other refusal ends the search."""
    registry.fault(Status.error(500, "UNKNOWN"), path="/blobs/")
    manifest = served(registry, "amd64").digest
    with pytest.raises(RegistryError):
        connected(registry).fetch(manifest).read()
    assert 0 == registry.count("GET", "/manifests/")


def test_tag_and_digest_are_asked_for_by_digest(registry: Registry) -> None:
    """Where both are given the tag is not sent."""
    manifest = served(registry, "amd64")
    registry.reset()
    remote = connected(registry)
    assert manifest == remote.fetch(f"7@{manifest.digest}", f"mediatype:{manifest.media_type}").descriptor
    assert [f"GET manifests {manifest.digest}"] == asked(registry)


def test_a_host_alone_has_no_objects(registry: Registry) -> None:
    """It is said what to add, and nothing is asked."""
    remote = distsdk.connect(f"{registry.host}/")
    for call in (lambda: remote.fetch("7"), lambda: remote.resolve("7"), remote.tags):
        with pytest.raises(InvalidReference, match="add the repository"):
            call()
    assert [] == registry.requests
    assert [REPOSITORY] == list(remote.catalog())


# Media types


def accepts(registry: Registry) -> list[str]:
    """The Accept header fields that came."""
    return [request.headers.get("Accept", "") for request in registry.requests]


def test_accept_has_the_hints_in_their_order(registry: Registry) -> None:
    """No hint means the four that distsdk knows, OCI first; hints mean themselves, in order."""
    remote = connected(registry)
    remote.fetch("7")
    remote.fetch("7", f"mediatype:{media.DOCKER_LIST}", f"mediatype:{media.OCI_INDEX}", "mediatype:a/b")
    remote.fetch("amd64", f"mediatype:{media.OCI_MANIFEST}", "platform:linux/amd64")
    assert [
        ", ".join((media.OCI_INDEX, media.OCI_MANIFEST, media.DOCKER_LIST, media.DOCKER_MANIFEST)),
        ", ".join((media.DOCKER_LIST, media.OCI_INDEX, "a/b")),
        # The index on the way to a platform has to be accepted too.
        ", ".join((media.OCI_MANIFEST, media.OCI_INDEX, media.DOCKER_LIST)),
    ] == accepts(registry)


def test_bytes_are_asked_for_as_they_are(registry: Registry) -> None:
    """Nothing may be compressed on the way, and what claims to be is not undone: digests are over the bytes."""
    registry.fault(Header("Content-Encoding", "gzip"))
    assert DATA == connected(registry).fetch(DIGEST).read()
    assert served(registry, "7").size == len(connected(registry).fetch("7").read())
    assert {"identity"} == {request.headers.get("Accept-Encoding") for request in registry.requests}


@frozen
class IgnoreAccept:
    """A registry that serves what it has, whatever is accepted."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer as if there were no Accept header."""
        return respond(evolve(request, headers=request.headers.without("Accept")))


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("call", ["fetch", "resolve"])
def test_a_mismatch_names_the_hint_that_would_do(registry: Registry, ignores: bool, call: str) -> None:
    """Whether the registry says 404 because of Accept or serves what it has: the right hint is in the message."""
    if ignores:
        registry.fault(IgnoreAccept())
    with pytest.raises(MediaTypeMismatch) as caught:
        getattr(connected(registry), call)("7", f"mediatype:{media.DOCKER_MANIFEST}")
    assert (media.OCI_INDEX, (media.DOCKER_MANIFEST,)) == (caught.value.got, caught.value.expected)
    assert f"mediatype:{media.OCI_INDEX}" in str(caught.value)
    assert "platform:" in str(caught.value)


def test_no_mismatch_is_made_up(registry: Registry) -> None:
    """What is not there under any media type is not found; what cannot be looked at stays as the registry said."""
    with pytest.raises(NotFound):
        connected(registry).fetch("8", f"mediatype:{media.DOCKER_MANIFEST}")
    registry.fault(Status(500), method="HEAD")
    with pytest.raises(NotFound):
        connected(registry).fetch("7", f"mediatype:{media.DOCKER_MANIFEST}")


def test_a_content_type_may_have_parameters(registry: Registry) -> None:
    """Case and parameters do not make another media type."""
    registry.fault(Header("Content-Type", f"{media.OCI_INDEX.upper()} ; charset=utf-8"))
    for hints in ([], [f"mediatype:{media.OCI_INDEX}"]):
        assert media.OCI_INDEX == connected(registry).fetch("7", *hints).media_type
        assert media.OCI_INDEX == connected(registry).resolve("7", *hints).media_type


@pytest.mark.parametrize(
    ("served_as", "fields", "error"),
    [
        (media.OCI_MANIFEST, {"mediaType": media.OCI_INDEX, "manifests": []}, MediaTypeMismatch),
        (media.OCI_INDEX, {"mediaType": media.DOCKER_LIST, "manifests": []}, MediaTypeMismatch),
        (media.OCI_INDEX, {"manifests": [], "layers": []}, MalformedDocument),
        (media.OCI_MANIFEST, {"manifests": []}, MalformedDocument),
        (media.OCI_INDEX, {"schemaVersion": 3, "manifests": []}, MalformedDocument),
        (media.OCI_MANIFEST, {"schemaVersion": 1, "fsLayers": []}, UnsupportedDocument),
    ],
)
def test_header_and_body_have_to_agree(
    registry: Registry, served_as: str, fields: dict[str, object], error: type[DistError]
) -> None:
    """A document that is one thing by its header and another by its fields is refused, by tag and by digest."""
    descriptor = registry.add_manifest(REPOSITORY, {"schemaVersion": 2, **fields}, served_as, tags=["odd"])
    with pytest.raises(error):
        connected(registry).fetch("odd")
    with pytest.raises(error):
        connected(registry).fetch(descriptor)


#: What servers write that know nothing of a document.
NO_CLAIMS = [None, "", "application/octet-stream", "application/json", "text/plain; charset=utf-8", "nonsense"]


@pytest.mark.parametrize("content_type", NO_CLAIMS)
def test_a_content_type_that_claims_nothing_is_no_type(registry: Registry, content_type: str | None) -> None:
    """Where the header names no document, the body's ``mediaType`` counts, for a tag, a digest and a platform."""
    expected = {name: served(registry, name) for name in ("7", "amd64")}
    config = connected(registry).manifest("amd64").config
    registry.fault(Header("Content-Type", content_type))
    remote = connected(registry)
    for name, descriptor in expected.items():
        for wanted in (name, descriptor, f"{name}@{descriptor.digest}"):
            assert descriptor == remote.fetch(wanted, f"mediatype:{descriptor.media_type}").descriptor
            assert descriptor == remote.resolve(wanted, f"mediatype:{descriptor.media_type}")
    assert expected["7"] == remote.fetch("7").descriptor == remote.resolve("7")
    assert expected["amd64"].digest == remote.fetch("7", "platform:linux/amd64").digest
    assert expected["amd64"] == remote.resolve(expected["amd64"].digest)
    assert config.size == len(remote.fetch(config).read())


@pytest.mark.parametrize("content_type", NO_CLAIMS)
@pytest.mark.parametrize(
    ("fields", "hints", "expected"),
    [
        ({"mediaType": media.OCI_INDEX, "manifests": []}, [], media.OCI_INDEX),
        ({"manifests": []}, [], media.OCI_INDEX),
        ({"manifests": []}, [media.DOCKER_LIST], media.DOCKER_LIST),
        ({"mediaType": media.OCI_INDEX, "manifests": []}, [media.DOCKER_LIST], MediaTypeMismatch),
        ({"mediaType": media.OCI_INDEX, "manifests": []}, [media.OCI_MANIFEST, media.DOCKER_LIST], MediaTypeMismatch),
        ({"manifests": [], "layers": []}, [], MalformedDocument),
        ({"manifests": []}, [media.OCI_MANIFEST], MalformedDocument),
        ({"mediaType": media.OCI_MANIFEST, "manifests": []}, [], MalformedDocument),
        ({"schemaVersion": 1, "fsLayers": []}, [], UnsupportedDocument),
        ({"x": 1}, [], MalformedDocument),
        ({"x": 1}, ["application/vnd.example+json"], "application/vnd.example+json"),
        ({"mediaType": media.OCI_INDEX, "manifests": []}, ["application/vnd.example+json"], MediaTypeMismatch),
    ],
)
def test_a_type_without_a_claim_is_checked_as_usual(
    registry: Registry,
    content_type: str | None,
    fields: dict[str, object],
    hints: list[str],
    expected: str | type[DistError],
) -> None:
    """The body, the hint and the fields of a document agree, or the error is that of a document with a claim."""
    registry.add_manifest(REPOSITORY, {"schemaVersion": 2, **fields}, media.OCI_INDEX, tags=["odd"])
    registry.fault(Header("Content-Type", content_type))
    registry.fault(IgnoreAccept())
    for call in (connected(registry).fetch, connected(registry).resolve):
        if isinstance(expected, str):
            assert expected == call("odd", *(f"mediatype:{hint}" for hint in hints)).media_type
        else:
            with pytest.raises(expected):
                call("odd", *(f"mediatype:{hint}" for hint in hints))


def test_a_directory_behind_a_static_file_server_is_a_registry(registry: Registry, tmp_path: Path) -> None:
    """`python -m http.server` serves an image from files at the paths of the API: by tag, platform and digest."""
    remote = connected(registry)
    manifest = remote.manifest("amd64")
    root = tmp_path / "v2" / REPOSITORY
    for folder in ("manifests", "blobs", "tags"):
        (root / folder).mkdir(parents=True)
    for descriptor in remote.index("7").manifests:
        (root / "manifests" / str(descriptor.digest)).write_bytes(remote.fetch(descriptor).read())
    for blob in (manifest.config, *manifest.layers):
        (root / "blobs" / str(blob.digest)).write_bytes(remote.fetch(blob).read())
    for tag in ("7", "7.txt", "7.json"):
        (root / "manifests" / tag).write_bytes(remote.fetch("7").read())
    (root / "tags" / "list").write_text('{"name": "library/x", "tags": ["7", "7.txt", "7.json"]}')
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.findall(r"port (\d+)", server.stdout.readline())[0]
            static = distsdk.connect(f"127.0.0.1:{port}/{REPOSITORY}")
            for tag in static.tags():
                assert remote.resolve("7") == static.resolve(tag) == static.fetch(tag).descriptor
                assert manifest == static.manifest(tag, platform="linux/amd64")
            for blob in (manifest.config, *manifest.layers):
                assert blob.size == len(static.fetch(blob).read())
            assert manifest.digest == static.resolve(manifest.digest).digest
            with pytest.raises(NotFound):
                static.fetch("8")
        finally:
            server.kill()


def test_a_docker_document_is_taken_at_its_headers_word(registry: Registry) -> None:
    """Older tools wrote none into the body."""
    raw = json.dumps({"schemaVersion": 2, "config": {}, "layers": []}).encode()
    registry.add_manifest(REPOSITORY, raw, media.DOCKER_MANIFEST, tags=["old"])
    blob = connected(registry).fetch("old")
    assert (raw, media.DOCKER_MANIFEST) == (blob.read(), blob.media_type)


@pytest.mark.parametrize("media_type", [media.DOCKER_SCHEMA1, media.DOCKER_SCHEMA1_SIGNED])
@pytest.mark.parametrize("hints", [[], [f"mediatype:{media.DOCKER_MANIFEST}"], [f"mediatype:{media.DOCKER_SCHEMA1}"]])
@pytest.mark.parametrize("call", ["fetch", "resolve"])
def test_schema_1_is_refused_by_name(registry: Registry, media_type: str, hints: list[str], call: str) -> None:
    """Registries serve it to whoever asks for nothing they have; it is refused even where it is asked for."""
    registry.fault(IgnoreAccept())
    fields = {"schemaVersion": 1, "name": "x", "fsLayers": [], "signatures": []}
    registry.add_manifest(REPOSITORY, fields, media_type, tags=["old"])
    with pytest.raises(UnsupportedDocument, match="schema 1") as caught:
        getattr(connected(registry), call)("old", *hints)
    assert media_type == caught.value.media_type


# Platforms


def nested(registry: Registry, depth: int, platform: str = "linux/amd64") -> Descriptor:
    """An image under that many indexes, the outermost of which is tagged ``deep``; returns the image."""
    image = child = registry.add_image(REPOSITORY, layers=[b"deep"], platform=platform)
    for level in range(depth):
        index = registry.add_index(REPOSITORY, "deep" if level == depth - 1 else None, manifests=[child])
        child = evolve(index, platform=Platform.parse(platform))
    return image


def test_a_platform_is_followed_through_indexes(registry: Registry) -> None:
    """One request a document; each child by its digest, and as what its parent says it is."""
    image = nested(registry, MAX_DEPTH - 1)
    blob = connected(registry).fetch("deep", "platform:linux/amd64")
    assert evolve(image, platform=None) == blob.descriptor
    requests = registry.requests
    assert MAX_DEPTH == len(requests)
    assert str(image.digest) == requests[-1].path.rpartition("/")[2]
    assert [media.OCI_INDEX, media.OCI_MANIFEST] == [a.partition(",")[0] for a in accepts(registry)[-2:]]


def test_indexes_within_indexes_are_bounded(registry: Registry) -> None:
    """A tree that is too deep is given up."""
    nested(registry, MAX_DEPTH + 3)
    with pytest.raises(LimitExceeded) as caught:
        connected(registry).fetch("deep", "platform:linux/amd64")
    assert MAX_DEPTH == caught.value.limit
    assert len(registry.requests) <= MAX_DEPTH + 1


def test_a_platform_that_the_inner_index_lacks_is_not_found(registry: Registry) -> None:
    """The outer index promised it; nothing else is taken in its place."""
    image = registry.add_image(REPOSITORY, platform="linux/s390x")
    inner = registry.add_index(REPOSITORY, manifests=[image])
    registry.add_index(REPOSITORY, "deep", manifests=[evolve(inner, platform=Platform("linux", "amd64"))])
    with pytest.raises(PlatformNotFound) as caught:
        connected(registry).fetch("deep", "platform:linux/amd64")
    assert ("linux/s390x",) == caught.value.available


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"media_type": media.OCI_INDEX}, MediaTypeMismatch),
        ({"media_type": media.DOCKER_MANIFEST}, MediaTypeMismatch),
        ({"size": 5}, SizeMismatch),
        ({"size": 100_000}, SizeMismatch),
        ({"digest": UNKNOWN}, NotFound),
    ],
)
def test_a_child_has_to_be_what_the_index_says(
    registry: Registry, change: dict[str, Any], error: type[DistError]
) -> None:
    """Media type, size and digest of a manifest are those that its index declares, or it is refused."""
    image = registry.add_image(REPOSITORY, layers=[b"child"], platform="linux/amd64")
    registry.add_index(REPOSITORY, "lie", manifests=[evolve(image, **change)])
    with pytest.raises(error):
        connected(registry).fetch("lie", "platform:linux/amd64")


@pytest.mark.parametrize("ignores", [False, True])
def test_an_index_that_is_declared_a_manifest_is_refused(registry: Registry, ignores: bool) -> None:
    """Indexes are accepted on the way to a platform, but not where the parent says that there is a manifest."""
    if ignores:
        registry.fault(IgnoreAccept())
    inner = registry.add_index(REPOSITORY, manifests=[registry.add_image(REPOSITORY, platform="linux/amd64")])
    child = evolve(inner, media_type=media.OCI_MANIFEST, platform=Platform("linux", "amd64"))
    registry.add_index(REPOSITORY, "lie", manifests=[child])
    with pytest.raises(MediaTypeMismatch) as caught:
        connected(registry).fetch("lie", "platform:linux/amd64")
    assert media.OCI_INDEX == caught.value.got


def test_manifest_and_index_are_values(registry: Registry) -> None:
    """`manifest` follows an index to this machine's platform or another, `index` takes an index only."""
    remote = connected(registry)
    index = remote.index("7")
    assert ["linux/amd64", "linux/arm64"] == list(map(str, index.platforms))
    for platform, child in zip(index.platforms, index.manifests, strict=True):
        assert child.digest == remote.manifest("7", platform=platform).digest
        assert child.digest == remote.manifest("7", platform=str(platform)).digest
    assert index.select(Platform.local()).digest == remote.manifest("7").digest
    assert index.manifests[0].digest == remote.manifest("amd64").digest == remote.manifest(index.manifests[0]).digest
    with pytest.raises(MediaTypeMismatch):
        remote.index("amd64")
    with pytest.raises(PlatformNotFound):
        remote.manifest("7", platform="plan9/mips")


@pytest.mark.parametrize("hints", [["size:5", "size:6"], ["platform:linux/amd64", "platform:linux/arm64"]])
def test_hints_that_contradict_each_other_are_refused(registry: Registry, hints: list[str]) -> None:
    """There is one size and one platform; saying it twice is no contradiction."""
    with pytest.raises(InvalidHint):
        connected(registry).fetch("7", *hints)
    connected(registry).fetch("7", "platform:linux/amd64", "platform:linux/amd64")


# Digests


def test_a_wrong_digest_header_is_a_mismatch(registry: Registry) -> None:
    """A tag's document that is not what the registry itself says is refused."""
    registry.fault(WrongDigestHeader(str(UNKNOWN)))
    raw_digest = hashlib.sha256(json.dumps({}).encode()).hexdigest()
    registry.add_manifest(REPOSITORY, b"{}", "application/json", tags=["plain"])
    with pytest.raises(DigestMismatch) as caught:
        connected(registry).fetch("plain", "mediatype:application/json")
    assert (str(UNKNOWN), f"sha256:{raw_digest}") == (caught.value.expected, caught.value.got)
    with pytest.raises(DigestMismatch):
        connected(registry).fetch("7")


@pytest.mark.parametrize("text", ["sha256:abc", "nonsense", "md5:" + "0" * 32, "sha256:" + "A" * 64, "../../etc"])
@pytest.mark.parametrize("call", ["fetch", "resolve"])
def test_a_malformed_digest_header_is_refused(registry: Registry, text: str, call: str) -> None:
    """It is the registry's document that is malformed, not what the caller asked for."""
    registry.fault(WrongDigestHeader(text))
    with pytest.raises(MalformedDocument):
        getattr(connected(registry), call)("7")


def test_a_digest_header_of_another_algorithm_proves_nothing(registry: Registry) -> None:
    """Old registries name the sha256 whatever was asked for: what was asked for is checked, and it is right."""
    raw = connected(registry).fetch("7").read()
    sha512 = Digest.of(raw, "sha512")
    registry.add_manifest(REPOSITORY, raw, media.OCI_INDEX, digest=sha512)
    registry.add_blob(REPOSITORY, DATA, digest=Digest.of(DATA, "sha512"))
    registry.fault(WrongDigestHeader(str(UNKNOWN)))
    remote = connected(registry)
    expected = Descriptor(media_type=media.OCI_INDEX, digest=sha512, size=len(raw))
    assert expected == remote.fetch(sha512, f"mediatype:{media.OCI_INDEX}").descriptor
    assert expected == remote.resolve(sha512, f"mediatype:{media.OCI_INDEX}")
    assert DATA == remote.fetch(Digest.of(DATA, "sha512")).read()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_tag_has_the_algorithm_of_the_registry(registry: Registry, algorithm: str) -> None:
    """The digest that the registry names a document by is the one it is verified under."""
    raw = connected(registry).fetch("7").read()
    digest = Digest.of(raw, algorithm)
    registry.add_manifest(REPOSITORY, raw, media.OCI_INDEX, digest=digest, tags=["other"])
    assert digest == connected(registry).fetch("other").digest == connected(registry).resolve("other").digest
    assert raw == connected(registry).fetch("other").read()


def test_without_a_digest_header_it_is_computed(registry: Registry) -> None:
    """Registries need not send it."""
    expected = served(registry, "7")
    registry.fault(Header("Docker-Content-Digest", None))
    assert expected == connected(registry).fetch("7").descriptor


@pytest.mark.parametrize("fault", [PaddedDigestHeader(), PaddedDigestHeader("\t", 2), PaddedDigestHeader("", 2)])
def test_a_digest_header_may_be_padded_or_repeated(registry: Registry, fault: Fault) -> None:
    """Blanks around ``Docker-Content-Digest`` do not count, nor does the same header a second time."""
    expected = served(registry, "7")
    registry.fault(fault)
    registry.reset()
    assert expected == connected(registry).resolve("7")
    assert ["HEAD manifests 7"] == asked(registry)
    assert expected == connected(registry).fetch("7").descriptor
    registry.clear_faults()
    registry.fault(Header("Docker-Content-Digest", str(UNKNOWN), add=True))
    with pytest.raises(MalformedDocument):
        connected(registry).resolve("7")


@pytest.mark.parametrize("asked_by", ["digest", "descriptor", "platform"])
def test_a_damaged_document_is_a_mismatch(registry: Registry, asked_by: str) -> None:
    """One wrong byte in what is asked for by digest never gets through, whatever the registry's header says."""
    manifest = served(registry, "amd64")
    registry.fault(WrongBytes(20), path=f"/manifests/{manifest.digest}", method="GET")
    remote = connected(registry)
    wanted: dict[str, tuple[str | Digest | Descriptor, list[str]]] = {
        "digest": (manifest.digest, []),
        "descriptor": (manifest, []),
        "platform": ("7", ["platform:linux/amd64"]),
    }
    asked_for, hints = wanted[asked_by]
    with pytest.raises(DigestMismatch) as caught:
        remote.fetch(asked_for, *hints).read()
    assert str(manifest.digest) == caught.value.expected


# Resolving


def test_resolving_a_tag_is_one_head(registry: Registry) -> None:
    """Nothing is read where the registry tells enough."""
    descriptor = connected(registry).resolve("7")
    assert ["HEAD manifests 7"] == asked(registry)
    assert descriptor == connected(registry).fetch("7").descriptor


@pytest.mark.parametrize(
    "fault",
    [
        Header("Docker-Content-Digest", None),
        NoContentLength(),
        NoContentLength(chunked=True),
        WrongLength(-(10**9)),  # some say 0
        Status(405),
        Status(501),
    ],
)
def test_resolving_reads_where_a_head_does_not_tell(registry: Registry, fault: Fault) -> None:
    """Registries that leave something out of a HEAD, or do not know it, are asked for the document."""
    expected = served(registry, "7")
    registry.fault(fault, method="HEAD")
    registry.reset()
    assert expected == connected(registry).resolve("7")
    assert ["HEAD manifests 7", "GET manifests 7"] == asked(registry)


@pytest.mark.parametrize("method", ["HEAD", None])
def test_resolving_a_digest_refuses_another(registry: Registry, method: str | None) -> None:
    """A registry that answers a digest with another one has something else."""
    manifest = served(registry, "amd64").digest
    registry.fault(WrongDigestHeader(str(UNKNOWN)), method=method)
    with pytest.raises(DigestMismatch):
        connected(registry).resolve(manifest)


# Documents that are none


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, NoContentLength(), NoContentLength(chunked=True)])
def test_a_document_has_a_limit(registry: Registry, fault: Fault | None) -> None:
    """More than 4 MiB are not read, whether the size is announced or not."""
    raw = b'{"schemaVersion": 2, "manifests": [], "x": "' + b"x" * 60_000_000 + b'"}'
    descriptor = registry.add_manifest(REPOSITORY, raw, media.OCI_INDEX, tags=["huge"])
    if fault is not None:
        registry.fault(fault)
    for wanted in ("huge", descriptor):
        with pytest.raises(LimitExceeded) as caught:
            connected(registry).fetch(wanted)
        assert 4 * 1024 * 1024 == caught.value.limit
    assert registry.bytes_sent < 40_000_000


def test_the_limit_of_documents_can_be_set(registry: Registry) -> None:
    """`Limits.document` bounds tags, descriptors and listings, and no blob."""
    size = served(registry, "7").size
    assert size == connected(registry, limits=distsdk.Limits(document=size)).fetch("7").size
    remote = connected(registry, limits=distsdk.Limits(document=size - 1))
    with pytest.raises(LimitExceeded):
        remote.fetch("7")
    with pytest.raises(LimitExceeded):
        list(connected(registry, limits=distsdk.Limits(document=10)).tags())
    assert DATA == connected(registry, limits=distsdk.Limits(document=10)).fetch(DIGEST).read()


HTML = Status(200, "<!DOCTYPE html><title>Please log in</title>", {"Content-Type": "text/html; charset=utf-8"})


@pytest.mark.parametrize("hints", [[], [f"mediatype:{media.OCI_INDEX}"], ["platform:linux/amd64"]])
def test_a_web_page_is_no_document(registry: Registry, hints: list[str]) -> None:
    """A portal that answers everything with a page and 200 is refused, though nothing said what to expect."""
    registry.fault(HTML)
    with pytest.raises((MalformedDocument, MediaTypeMismatch, UnsupportedDocument)):
        connected(registry).fetch("7", *hints)


def test_a_web_page_is_no_answer_to_anything_else(registry: Registry) -> None:
    """Neither as a listing, nor as a blob, nor when it claims to be a manifest."""
    registry.fault(HTML)
    with pytest.raises(MalformedDocument):
        list(connected(registry).tags())
    with pytest.raises(MalformedDocument):
        list(connected(registry).catalog())
    with pytest.raises(DigestMismatch):
        connected(registry).fetch(DIGEST).read()
    registry.clear_faults()
    registry.fault(evolve(HTML, headers={"Content-Type": media.OCI_INDEX}))
    with pytest.raises(MalformedDocument):
        connected(registry).fetch("7")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"a":1,"a":2}', b"[" * 100_000, b"\xff{}", b"{}" * 2])
def test_malformed_json_is_refused(registry: Registry, body: bytes) -> None:
    """Empty, of another kind, ambiguous or deep: a document error, not one of Python."""
    registry.add_manifest(REPOSITORY, body, media.OCI_INDEX, tags=["bad"])
    with pytest.raises(MalformedDocument):
        connected(registry).fetch("bad")
    registry.fault(Status(200, body), path="/tags/list")
    with pytest.raises(MalformedDocument):
        list(connected(registry).tags())


# Listings


def tagged(registry: Registry, number: int) -> list[str]:
    """Give the index more tags, and return all there are, in the registry's order."""
    raw = connected(registry).fetch("7").read()
    names = [f"v{n:04}" for n in range(number)]
    registry.add_manifest(REPOSITORY, raw, media.OCI_INDEX, tags=names)
    registry.reset()
    return ["7", "amd64", *names]


@pytest.fixture
def paged() -> Iterator[Registry]:
    """A registry that lists ten at a time."""
    with Registry(page_size=10) as registry:
        fill(registry)
        yield registry


def test_tags_are_read_page_by_page(paged: Registry) -> None:
    """Nothing is asked before the first is wanted, and no page before its first is."""
    names = tagged(paged, 33)
    tags = connected(paged).tags()
    assert [] == paged.requests
    first = iter(tags)
    assert names[:10] == [next(first) for _ in range(10)]
    assert ["n=1000"] == [request.query for request in paged.requests]
    next(first)
    assert 2 == len(paged.requests)
    assert names == list(tags)
    assert ["application/json"] * 6 == accepts(paged)


@frozen
class Links:
    """Link headers that are sent with the first pages, one after the other; none after those."""

    links: list[str] = field(factory=list)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer with the next link."""
        return respond(request).with_header("Link", self.links.pop(0) if self.links else None)


@pytest.mark.parametrize(
    "link",
    [
        '</v2/library/x/tags/list?last=amd64&n=50>; rel="next"',
        "<{url}/v2/library/x/tags/list?last=amd64>; rel=next",
        '<?last=amd64>; rel="next"',
        '<list?last=amd64>; rel="prev next"',
        '<https://elsewhere.example/>; rel="prev", </v2/library/x/tags/list?last=amd64>; rel="next"',
        '</v2/library/x/tags/list?last=amd64>; title="a, b; c"; REL="NEXT"',
    ],
)
def test_a_link_leads_to_the_next_page(registry: Registry, link: str) -> None:
    """Relative or absolute, with whatever parameters RFC 8288 allows."""
    names = tagged(registry, 3)
    registry.fault(Links([link.replace("{url}", registry.url)]))
    assert [*names, *names[2:]] == list(connected(registry).tags())
    assert "last=amd64" in registry.requests[1].query


@pytest.mark.parametrize(
    "link",
    [
        '<https://elsewhere.example/v2/library/x/tags/list?last=a>; rel="next"',
        '<{other}/v2/library/x/tags/list?last=a>; rel="next"',
        '<//elsewhere.example/v2/library/x/tags/list>; rel="next"',
        '</v2/library/secret/tags/list?last=a>; rel="next"',
        '</token?x>; rel="next"',
        '<file:///etc/passwd>; rel="next"',
        '<http://user:hunter2@{host}/v2/library/x/tags/list?last=a>; rel="next"',
        '<../../../../admin>; rel="next"',
    ],
)
def test_a_link_elsewhere_is_not_followed(registry: Registry, link: str) -> None:
    """Another origin, scheme, user or path is refused, with a message that shows no secret."""
    with Registry() as other:
        link = link.replace("{other}", other.url).replace("{host}", registry.host)
        registry.fault(Links([link]))
        got: list[str] = []
        with pytest.raises(Unsafe) as caught:
            got.extend(connected(registry).tags())
        assert [] == other.requests
    assert 1 == len(registry.requests)
    assert ["7", "amd64"] == got
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "links", [["<?n=1000>; rel=next"], ["<?a>; rel=next", "<?b>; rel=next", "<?a>; rel=next", "<?c>; rel=next"]]
)
def test_pages_that_lead_in_a_circle_are_left(registry: Registry, links: list[str]) -> None:
    """A page that was read before ends the listing with an error."""
    registry.fault(Links(list(links)))
    with pytest.raises(MalformedDocument, match="circle"):
        list(connected(registry).tags())
    assert len(registry.requests) <= len(links)


def test_pages_are_bounded(registry: Registry) -> None:
    """A listing without end ends at `Limits.pages`."""
    registry.fault(Links([f"<?page={n}>; rel=next" for n in range(100)]))
    with pytest.raises(LimitExceeded) as caught:
        list(connected(registry, limits=distsdk.Limits(pages=7)).tags())
    assert (7, 7) == (caught.value.limit, len(registry.requests))


def requested(registry: Registry) -> list[str]:
    """The queries of the requests for tags."""
    return [request.query for request in registry.requests if request.path.endswith("/tags/list")]


@pytest.mark.parametrize("number", [998, 999, 1500, 1998, 2000])
def test_full_pages_without_links_are_followed_by_last(registry: Registry, number: int) -> None:
    """Where pages have no ``Link``, a full one is followed by one more request; every tag is listed once."""
    names = tagged(registry, number)
    registry.fault(NoLink())
    assert names == list(connected(registry).tags())
    asked = ["n=1000"] + [f"n=1000&last={names[n - 1]}" for n in range(1000, len(names) + 1, 1000)]
    assert asked == requested(registry)


def test_a_page_with_fewer_names_than_requested_is_the_last(registry: Registry) -> None:
    """A registry whose pages are smaller says so by ``Link``, as the specification asks; without one, that is all."""
    names = tagged(registry, 33)
    registry.fault(NoLink(size=10))
    assert names[:10] == list(connected(registry).tags())
    assert ["n=1000"] == requested(registry)


@frozen
class Pages:
    """Pages of tags without ``Link``, the same ones again after the last."""

    pages: list[list[str]]

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Respond with the next page."""
        self.pages.append(self.pages.pop(0))
        return Status(200, json.dumps({"tags": self.pages[-1]})).answer(request, respond)


NAMES = [f"{n:04}" for n in range(3000)]


@pytest.mark.parametrize(
    ("pages", "expected", "requests"),
    [
        ([NAMES[:1000]], NAMES[:1000], 2),  # ``last`` is ignored
        ([NAMES[:1000], NAMES[1000:2000]], NAMES[:2000], 3),
        ([NAMES[:1000], NAMES[999:1999], ["1998"]], NAMES[:1999], 3),  # ``last`` is included
        ([NAMES[:1500]], NAMES[:1500], 1),  # ``n`` is ignored
        ([NAMES[:1000], []], NAMES[:1000], 2),
    ],
)
def test_pages_without_links_end(
    registry: Registry, pages: list[list[str]], expected: list[str], requests: int
) -> None:
    """Pages that bring no new names end the listing, whatever a registry makes of ``last``."""
    registry.fault(Pages(list(pages)), path="/tags/list")
    assert expected == list(connected(registry).tags())
    assert requests == len(requested(registry))


def test_pages_without_links_are_bounded(registry: Registry) -> None:
    """Pages without ``Link`` that have new names each time end at `Limits.pages`."""
    registry.fault(Pages([[f"{page}-{n}" for n in range(1000)] for page in range(10)]))
    with pytest.raises(LimitExceeded):
        list(connected(registry, limits=distsdk.Limits(pages=7)).tags())
    assert 7 == len(registry.requests)


def test_a_registry_that_refuses_last_has_no_more(registry: Registry) -> None:
    """A full page ends the listing where the request for the next one is refused; a failing server is an error."""
    names = tagged(registry, 998)
    registry.fault(NoLink())

    @frozen
    class Refuse:
        code: int

        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            if "last=" not in request.query:
                return respond(request)
            return Status.error(self.code, "UNSUPPORTED").answer(request, respond)

    registry.fault(Refuse(400))
    assert names == list(connected(registry).tags())
    registry.clear_faults()
    registry.fault(Refuse(500))
    with pytest.raises(RegistryError):
        list(connected(registry).tags())


def test_listings_are_requested_without_n_where_it_is_refused(registry: Registry) -> None:
    """A registry that refuses a page of that size is asked for one of its own size."""

    @frozen
    class RefuseNumber:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            if "n=" not in request.query:
                return respond(request)
            return Status.error(400, "PAGINATION_NUMBER_INVALID").answer(request, respond)

    registry.fault(RefuseNumber())
    remote = connected(registry)
    assert [REPOSITORY] == list(remote.catalog())
    assert ["n=1000", ""] == [request.query for request in registry.requests]
    assert ["7", "amd64"] == list(remote.tags())


@pytest.mark.parametrize(
    ("body", "expected"), [('{"name": "x", "tags": null}', []), ('{"tags": []}', []), ('{"name": "x"}', [])]
)
def test_no_tags_are_no_error(registry: Registry, body: str, expected: list[str]) -> None:
    """Registries write null, or nothing, for none."""
    registry.fault(Status(200, body))
    assert expected == list(connected(registry).tags())


@pytest.mark.parametrize("tags", ['"7"', "[1]", '["7", null]', '{"7": 1}', "7", "true", '[["7"]]'])
def test_tags_that_are_no_strings_are_malformed(registry: Registry, tags: str) -> None:
    """A listing of anything but strings is refused, not shown."""
    registry.fault(Status(200, f'{{"tags": {tags}, "repositories": {tags}}}'))
    with pytest.raises(MalformedDocument):
        list(connected(registry).tags())
    with pytest.raises(MalformedDocument):
        list(connected(registry).catalog())


def test_a_listing_shows_itself(paged: Registry) -> None:
    """Its repr costs nothing: it says that it was not read, or shows the first few, in one line."""
    tagged(paged, 33)
    tags = connected(paged).tags()
    assert f"<TagList {paged.host}/library/x: not read yet>" == repr(tags)
    assert [] == paged.requests
    list(tags)
    assert repr(tags).startswith(f"<TagList {paged.host}/library/x: 7, amd64, v0000, ")
    assert "v0032" not in repr(tags)
    paged.fault(Status(200, json.dumps({"tags": [ESCAPES]})))
    tags = connected(paged).tags()
    assert [ESCAPES] == list(tags)
    assert repr(tags).isprintable()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("<a>", None),
        ("<a>; rel=prev", None),
        ('<a>; rel="next"', "a"),
        ("<a>;rel=next", "a"),
        ("<a>; rel=nextish", None),
        ('<a>; title="; rel=next"', None),
        ('<a>; title="\\"; rel=next; \\""', None),
        ("<a>; anchor=x; rel=next, <b>; rel=next", "a"),
        ('<a,b;c>; rel="next"', "a,b;c"),
        ("a; rel=next", None),
        ("<a>; rel", None),
        ("<a>; xrel=next", None),
        ("<>; rel=next", ""),
    ],
)
def test_next_links(header: str, expected: str | None) -> None:
    """What RFC 8288 makes of a header."""
    assert expected == next_link(header)


# Ranges


@frozen
class FalseRange:
    """Bytes of a range with another ``Content-Range``, or none."""

    content_range: str | None

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer a range with that header."""
        response = respond(request)
        return response.with_header("Content-Range", self.content_range) if response.status == 206 else response


@frozen
class Shifted:
    """The bytes after those that were asked for, honestly labelled or not."""

    honest: bool

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer another range."""
        asked_for = request.headers.get("Range", "")
        if request.method != "GET" or not asked_for:
            return respond(request)
        first, last = map(int, re.findall(r"\d+", asked_for))
        moved = f"bytes={first + 7}-{last + 7}"
        headers = type(request.headers)([*request.headers.without("Range").items(), ("Range", moved)])
        response = respond(evolve(request, headers=headers))
        if self.honest or response.status != 206:
            return response
        return response.with_header("Content-Range", f"bytes {first}-{last}/{len(DATA)}")


@frozen
class HalfRange:
    """Half of the range that was asked for, and its header says so."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer the first half of a range."""
        asked_for = request.headers.get("Range", "")
        if request.method != "GET" or not asked_for:
            return respond(request)
        first, last = map(int, re.findall(r"\d+", asked_for))
        half = f"bytes={first}-{(first + last) // 2}"
        headers = type(request.headers)([*request.headers.without("Range").items(), ("Range", half)])
        return respond(evolve(request, headers=headers))


@frozen
class NoRanges:
    """416 to every range."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Refuse a range."""
        return Response(416) if "Range" in request.headers else respond(request)


@pytest.mark.parametrize(
    "fault",
    [
        IgnoreRange(),
        NoRanges(),
        HalfRange(),
        Shifted(honest=True),
        FalseRange(None),
        FalseRange("nonsense"),
        FalseRange("bytes 0-9/10"),
        FalseRange("bytes */500003"),
        FalseRange("bytes 99999999999999999999-99999999999999999999/*"),
        FalseRange("items 0-1/2"),
    ],
)
def test_ranges_that_are_not_given_do_no_harm(registry: Registry, fault: Fault) -> None:
    """Whatever a registry makes of ranges: the bytes are right."""
    registry.fault(fault)
    remote = connected(registry)
    with remote.fetch(DIGEST).open() as reader:
        for offset in (0, 1, 250_000, 499_999, 100, 500_002):
            reader.seek(offset)
            assert DATA[offset : offset + 1000] == reader.read(1000)
        reader.seek(0)
        assert DATA == b"".join(iter(lambda: reader.read(70_000), b""))
        assert "verified" == reader.trust
    assert DATA == remote.fetch(DIGEST).read()


def test_a_range_of_other_bytes_is_found_out_at_the_end(registry: Registry) -> None:
    """Bytes from elsewhere under the right header cannot be told before, so nothing claims that they are right."""
    registry.fault(Shifted(honest=False))
    with connected(registry).fetch(DIGEST).open() as reader:
        reader.seek(1000)
        assert DATA[1007:1017] == reader.read(10)
        assert "unverified" == reader.trust
        reader.seek(0)
        with pytest.raises(IntegrityError):
            list(iter(lambda: reader.read(70_000), b""))
    with connected(registry).fetch(DIGEST).open(strict=True) as reader:
        reader.seek(1000)
        with pytest.raises(Unsafe):
            reader.read(10)


def test_ranges_are_closed(registry: Registry) -> None:
    """Both ends are named: there are registries that answer an open range with 416."""
    with connected(registry).fetch(DIGEST).open() as reader:
        reader.seek(-10, io.SEEK_END)
        reader.read()
        reader.seek(0)
        while reader.read(9_999):
            pass
    ranges = [request.headers["Range"] for request in registry.requests if "Range" in request.headers]
    assert ranges
    assert all(re.fullmatch(r"bytes=\d+-\d+", text) for text in ranges)
    assert [] == [request.status for request in registry.requests if request.status not in {200, 206}]


def test_a_look_at_the_end_costs_little(registry: Registry) -> None:
    """The last bytes of a blob are a HEAD and a range."""
    with connected(registry).fetch(DIGEST).open() as reader:
        reader.seek(-100, io.SEEK_END)
        assert DATA[-100:] == reader.read()
    assert [f"HEAD blobs {DIGEST}", f"GET blobs {DIGEST}"] == asked(registry)
    assert registry.bytes_sent <= 100


# Many at once


def test_unread_blobs_cost_nothing(registry: Registry) -> None:
    """A thousand of them send no request, and one more can be read."""
    remote = connected(registry)
    kept = [remote.fetch(DIGEST) for _ in range(1000)]
    assert [] == registry.requests
    assert DATA == kept[500].read()
    assert 1 == len(registry.requests)


@pytest.mark.slow
def test_half_read_blobs_do_not_block_each_other(registry: Registry) -> None:
    """A hundred streams and a hundred readers in the middle, on one remote that keeps 16 connections."""
    big = random.Random(3).randbytes(3_000_000)
    digest = registry.add_blob(REPOSITORY, big).digest
    remote = connected(registry)
    with ExitStack() as stack:
        streams = [remote.fetch(digest).stream() for _ in range(100)]
        readers = [stack.enter_context(remote.fetch(digest).open()) for _ in range(100)]
        firsts = [next(stream) for stream in streams]
        assert all(big.startswith(first) for first in firsts)
        assert all(reader.read(5) == big[:5] for reader in readers)
        assert DATA == remote.fetch(DIGEST).read()
        assert "7" in list(remote.tags())
        assert big == firsts[99] + b"".join(streams[99])
        assert big[5:] == readers[99].read()
        for stream in streams:
            stream.close()  # type: ignore[attr-defined] # a generator, as far as Python is concerned


def test_a_stalled_blob_does_not_stall_the_others(registry: Registry) -> None:
    """While one waits for its bytes, and holds on to what it has, thirty others come."""
    go_on = threading.Event()
    slow = registry.add_blob(REPOSITORY, DATA[::-1]).digest
    registry.fault(Stall(after=1000, event=go_on), path=str(slow))
    remote = connected(registry)
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(remote.fetch(slow).read) for _ in range(17)]
        try:
            assert [DATA] * 30 == [remote.fetch(DIGEST).read() for _ in range(30)]
            assert not any(future.done() for future in waiting)
        finally:
            go_on.set()
        assert all(future.result(10) == DATA[::-1] for future in waiting)


# Tokens and other hosts


def test_tokens_are_renewed_and_shared() -> None:
    """One token serves many requests; one that the registry does not take any more is replaced in silence."""
    with Registry(auth="bearer") as registry:
        fill(registry)
        remote = connected(registry)
        for _ in range(5):
            assert DATA == remote.fetch(DIGEST).read()
        assert 1 == registry.count(path="/token")
        registry.expire_tokens()
        with ThreadPoolExecutor(8) as pool:
            assert [DATA] * 16 == list(pool.map(lambda _: remote.fetch(DIGEST).read(), range(16)))
        with remote.fetch(DIGEST).open() as reader:
            reader.read(10)
            registry.expire_tokens()
            assert DATA[10:] == reader.read()


def test_a_token_has_no_way_out() -> None:
    """Neither the repr nor a pickle of a remote, a blob or a listing that used a token holds it."""
    with Registry(auth="bearer") as registry:
        fill(registry)
        remote = connected(registry)
        blob, tags = remote.fetch(DIGEST), remote.tags()
        assert DATA == blob.read()
        assert ["7", "amd64"] == list(tags)
        tokens = {
            r.headers["Authorization"].removeprefix("Bearer ")
            for r in registry.requests
            if r.status == 200 and "Authorization" in r.headers
        }
        assert tokens
        for value in (remote, blob, tags):
            shown = f"{value!r} {vars(value)}".encode() + pickle.dumps(value)
            assert not any(token.encode() in shown for token in tokens)


def test_a_blob_may_be_elsewhere(registry: Registry) -> None:
    """A redirect is followed, without the token; ranges go there as well."""
    with Registry(auth="bearer") as home:
        fill(home)
        home.fault(Redirect(f"{registry.url}{{path}}?Signature=hunter2"), path="/blobs/")
        remote = connected(home)
        assert DATA == remote.fetch(DIGEST).read()
        with remote.fetch(DIGEST).open() as reader:
            reader.seek(1000)
            assert DATA[1000:2000] == reader.read(1000)
        assert [] == registry.authorizations
        assert 3 == sum(text.startswith("Bearer ") for text in home.authorizations)  # the size, the whole, a range
        assert "Range" in registry.requests[-1].headers

        registry.fault(Status.error(403, "EXPIRED", "no more"))
        with pytest.raises(Denied) as caught:
            remote.fetch(DIGEST).read()
        assert "hunter2" not in str(caught.value)
        assert ("EXPIRED",) == caught.value.codes


@frozen
class LargeRedirect:
    """A redirect with a body of a size that nobody needs."""

    to: str
    size: int

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Redirect."""
        location = ("Location", self.to.replace("{path}", request.path))
        return Response(307, (location,), (memoryview(bytes(self.size)),))


@pytest.mark.parametrize("size", [0, 100, 100_000_000])
def test_the_body_of_a_redirect_is_of_no_interest(registry: Registry, size: int) -> None:
    """It is not read into memory, however much there is."""
    with Registry() as home:
        fill(home)
        home.fault(LargeRedirect(f"{registry.url}{{path}}", size), path="/blobs/")
        assert DATA == connected(home).fetch(DIGEST).read()
        assert home.bytes_sent < 20_000_000


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("", Unsafe),
        ("file:///etc/passwd", Unsafe),
        ("ftp://{host}/", Unsafe),
        ("http://user:hunter2@{host}/", Unsafe),
        ("http://", RegistryError),  # the same place again (RFC 3986 section 5.2.2, read leniently)
        ("http://[::1", Unsafe),
        ("http://{host}:99999/", Unsafe),
        ("{path}", RegistryError),
    ],
)
@pytest.mark.parametrize("what", ["tag", "blob", "tags"])
def test_a_redirect_that_leads_nowhere_is_refused(
    registry: Registry, location: str, error: type[DistError], what: str
) -> None:
    """No location, another scheme, a user, a malformed URL, a circle: each ends, and shows no secret."""
    host = registry.host.partition(":")[0]
    registry.fault(Redirect(location.replace("{host}", host)))
    with pytest.raises(error) as caught:
        attempt(connected(registry), what)
    assert "hunter2" not in str(caught.value)
    assert len(registry.requests) <= 10
    check_message(caught.value)


# What goes wrong


@pytest.mark.parametrize(
    ("status", "error", "attributes"),
    [
        (400, RegistryError, {"status": 400}),
        (401, Denied, {"status": 401}),
        (403, Denied, {"status": 403}),
        (404, NotFound, {}),
        (418, RegistryError, {"status": 418}),
        (429, RateLimited, {"retry_after": 7.0}),
        (500, RegistryError, {"status": 500}),
        (502, RegistryError, {"status": 502}),
        (503, RegistryError, {"status": 503}),
        (504, RegistryError, {"status": 504}),
        (599, RegistryError, {"status": 599}),
    ],
)
@pytest.mark.parametrize("what", ["tag", "blob", "tags"])
def test_a_refusal_has_the_registrys_words(
    registry: Registry, status: int, error: type[DistError], attributes: dict[str, object], what: str
) -> None:
    """Each status is an error of its kind, with the registry's codes, its message, and what was asked for."""
    headers = {"Retry-After": "7", "WWW-Authenticate": 'Basic realm="x"'}
    if status == 401:
        del headers["WWW-Authenticate"]
    registry.fault(Status.error(status, "SOME_CODE", "the words of the registry", headers))
    remote = connected(registry)
    with pytest.raises(error) as caught:
        attempt(remote, what)
    found = caught.value
    assert attributes == {name: getattr(found, name) for name in attributes}
    assert ("SOME_CODE",) == found.codes  # type: ignore[attr-defined] # all of these have it
    assert "SOME_CODE" in str(found) or "the words of the registry" in str(found)
    check_message(found)


def attempt(remote: Remote, what: str) -> object:
    """Read something."""
    if what == "tag":
        return remote.fetch("7").read()
    if what == "blob":
        return remote.fetch(DIGEST).read()
    if what == "sized blob":
        return remote.fetch(DIGEST, f"size:{len(DATA)}").read()
    if what == "document":
        return remote.fetch("amd64", f"mediatype:{media.OCI_MANIFEST}").read()
    if what == "reader":
        with remote.fetch(DIGEST).open() as reader:
            return b"".join(iter(lambda: reader.read(100_000), b""))
    assert what == "tags"
    return list(remote.tags())


def check_message(error: BaseException) -> None:
    """A message is one line, bounded, and survives a pickle as the rest of the error does."""
    text = str(error)
    assert text
    assert text.isprintable()
    assert len(text) < 2500
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(error), text, error.__dict__) == (type(copy), str(copy), copy.__dict__)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>" + b"x" * 1_000_000,
        json.dumps({"errors": [{"code": ESCAPES, "message": ESCAPES}]}).encode(),
        json.dumps({"errors": [{"code": "X" * 100_000, "message": "y" * 1_000_000}]}).encode(),
        json.dumps({"errors": [{"code": "X" * 2000, "message": "y" * 5000}]}).encode(),
        json.dumps({"errors": [{"code": f"C{n}", "message": "z" * 200} for n in range(50)]}).encode(),
        json.dumps({"errors": [{"code": {"a": 1}, "message": ["b"], "detail": {}}, 5, None]}).encode(),
        json.dumps({"errors": "no list"}).encode(),
        json.dumps(["errors"]).encode(),
        b'{"errors": ' + b"[" * 10_000,
        b"\xff\xfe\x00",
    ],
)
@pytest.mark.parametrize("what", ["tag", "blob"])
def test_a_hostile_refusal_is_bounded_and_escaped(registry: Registry, status: int, body: bytes, what: str) -> None:
    """Whatever the body of an error is, the message can be printed, and it is the error of its status."""
    registry.fault(Status(status, body, {"Content-Type": "application/json"}))
    with pytest.raises((Denied, NotFound, RateLimited, RegistryError)) as caught:
        attempt(connected(registry), what)
    check_message(caught.value)
    codes = caught.value.codes  # type: ignore[attr-defined] # all of these have it
    assert all(len(code) <= 64 for code in codes)
    assert len(codes) <= 100


def test_a_missing_object_has_the_registrys_detail(registry: Registry) -> None:
    """``detail`` reaches the error of `fetch` and of `delete`."""
    body = '{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": "x"}}]}'
    registry.fault(Status(404, body))
    for call in (connected(registry).fetch, connected(registry).delete):
        with pytest.raises(NotFound) as caught:
            call("x")
        assert '{"Tag":"x"}' == caught.value.detail


def test_a_login_that_is_not_there_is_said(registry: Registry) -> None:
    """A registry that wants a password is named with the scheme it wants; no second request is made in vain."""
    registry.fault(Status(401, "", {"WWW-Authenticate": 'Basic realm="private"'}))
    with pytest.raises(Denied, match="basic") as caught:
        connected(registry).fetch("7")
    assert (401, 1) == (caught.value.status, len(registry.requests))
    assert isinstance(caught.value, PermissionError)


@frozen
class NoAccess:
    """401 also to who brings a good token: what Docker Hub says of a repository that is not there."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Refuse what the registry would answer."""
        response = respond(request)
        if response.status == 401:
            return response
        challenge = {
            "WWW-Authenticate": f'Bearer realm="http://{request.headers["Host"]}/token",error="insufficient_scope"'
        }
        return Status.error(401, "UNAUTHORIZED", "access is not authorized", challenge).answer(request, respond)


@pytest.mark.parametrize("what", ["tag", "blob", "tags"])
def test_docker_hubs_401_is_explained(what: str) -> None:
    """Who has a token and is still told 401 asked for what does not exist, or needs a login; there is an end to it."""
    with Registry(auth="bearer") as registry:
        fill(registry)
        registry.fault(NoAccess(), path="^/v2/")
        with pytest.raises(Denied, match="does not exist or requires a login") as caught:
            attempt(connected(registry), what)
        assert (401, ("UNAUTHORIZED",)) == (caught.value.status, caught.value.codes)
        assert "access is not authorized" in str(caught.value)
        assert len(registry.requests) <= 4


@pytest.mark.parametrize("fault", [Status(403, "no"), Status(200, "<html>"), Status(500), Status(200, "{}"), Cut(1)])
def test_a_token_service_that_fails_is_an_error(fault: Fault) -> None:
    """Its refusal is a refusal, its nonsense is malformed, and there is no second try without a token."""
    with Registry(auth="bearer") as registry:
        fill(registry)
        registry.fault(fault, path="/token")
        with pytest.raises((Denied, MalformedDocument, RegistryError, Unreachable)) as caught:
            connected(registry).fetch("7")
        check_message(caught.value)
        assert len(registry.requests) in {2, 1 + Retry().attempts}


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "/token",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:hunter2@127.0.0.1/",
        "http://[::1/token",
        "http://127.0.0.1:99999/token",
        "http://127.0.0.1:x/token",
        "http://127.0.0.1 /token",
        "http://" + "a" * 300 + "/token",
    ],
)
def test_a_realm_that_leads_nowhere_is_refused(registry: Registry, realm: str) -> None:
    """What a registry names as its token service need not be a URL: an error of distsdk, without a secret."""
    registry.fault(Status(401, "", {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}))
    with pytest.raises((Unsafe, Denied, Unreachable)) as caught:
        connected(registry).fetch("7")
    assert "hunter2" not in str(caught.value)
    check_message(caught.value)


#: Fault, what is read, and the error it has to be.
BROKEN: list[tuple[Fault | list[Fault], str, tuple[type[DistError], ...]]] = [
    (Short(), "tag", (DigestMismatch,)),
    (Short(), "blob", (DigestMismatch,)),
    (Short(), "sized blob", (SizeMismatch,)),
    (Long(), "tag", (DigestMismatch,)),
    (Long(), "blob", (DigestMismatch,)),
    (Long(1_000_000), "sized blob", (SizeMismatch,)),
    (WrongLength(-1), "tag", (DigestMismatch,)),
    (WrongLength(-1), "blob", (DigestMismatch,)),
    (WrongLength(-1), "sized blob", (SizeMismatch,)),
    (WrongLength(1), "tag", (Unreachable,)),
    (WrongLength(1), "blob", (Unreachable,)),
    (WrongLength(1), "sized blob", (Unreachable, SizeMismatch)),
    (Cut(10), "tag", (Unreachable,)),
    (Cut(10), "blob", (Unreachable,)),
    (Cut(0), "blob", (Unreachable,)),
    (Cut(10, reset=True), "tag", (Unreachable,)),
    ([NoContentLength(), Cut(300_000)], "blob", (DigestMismatch, Unreachable)),
    ([NoContentLength(chunked=True), Cut(50)], "tag", (DigestMismatch, Unreachable)),
    (WrongBytes(), "tag", (DigestMismatch,)),
    (WrongBytes(400_000), "blob", (DigestMismatch,)),
    (WrongBytes(400_000), "sized blob", (DigestMismatch,)),
    (Short(), "reader", (IntegrityError, Unreachable)),
    (WrongBytes(), "reader", (DigestMismatch,)),
    (Cut(5), "tags", (Unreachable,)),
    (Short(), "tags", (MalformedDocument,)),
]


@pytest.mark.parametrize(("faults", "what", "errors"), BROKEN)
@pytest.mark.parametrize("auth", [None, "bearer"])
def test_a_broken_answer_is_never_a_success(
    faults: Fault | list[Fault], what: str, errors: tuple[type[DistError], ...], auth: str | None
) -> None:
    """Cut, short, long or wrong: an error of the right kind, fit to be printed and without the token."""
    with Registry(auth="bearer" if auth else None) as registry:
        fill(registry)
        for fault in faults if isinstance(faults, list) else [faults]:
            registry.fault(fault, path="/v2/", method="GET")
        with pytest.raises(errors) as caught:
            attempt(connected(registry), what)
        check_message(caught.value)
        tokens = {
            request.headers["Authorization"] for request in registry.requests if "Authorization" in request.headers
        }
        assert bool(auth) == bool(tokens)
        for token in tokens:
            secret = token.removeprefix("Bearer ")
            assert secret not in str(caught.value)
            assert secret.encode() not in pickle.dumps(caught.value)
        registry.clear_faults()
        assert DATA == connected(registry).fetch(DIGEST).read()


#: Faults that are in each answer, and what is read in spite of them.
HEALED: list[tuple[list[Fault], str]] = [
    ([Cut(100_000)], "blob"),
    ([Cut(100_000)], "sized blob"),
    ([Cut(100_000, reset=True)], "blob"),
    ([Cut(20_000)], "blob"),
    ([NoContentLength(), Cut(100_000)], "sized blob"),
    ([NoContentLength(chunked=True), Cut(100_000)], "blob"),
    ([NoContentLength(chunked=True), Cut(100_000)], "sized blob"),
    ([Cut(50_000)], "reader"),
    ([Cut(50_000, reset=True)], "reader"),
]


@pytest.mark.parametrize(("faults", "what"), HEALED)
@pytest.mark.parametrize("auth", [None, "bearer"])
def test_what_is_cut_again_and_again_is_resumed(faults: list[Fault], what: str, auth: str | None) -> None:
    """Each answer ends too early; each further one goes on where that was, and no byte is asked for twice."""
    with Registry(auth="bearer" if auth else None) as registry:
        fill(registry)
        for fault in faults:
            registry.fault(fault, path="/blobs/", method="GET")
        assert DATA == attempt(connected(registry), what)
        sent = sum(r.body_bytes_sent for r in registry.requests if r.status in {200, 206} and "/blobs/" in r.path)
        assert len(DATA) <= sent < len(DATA) + 20_000


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, 0, 10])
@pytest.mark.parametrize("what", ["tag", "blob", "tags"])
def test_silence_is_an_error(registry: Registry, after: int | None, what: str) -> None:
    """Where no byte comes, the read time-out says so, in seconds, before the headers and after."""
    registry.fault(Stall(after))
    remote = connected(registry, timeouts=distsdk.Timeouts(read=0.2))
    with pytest.raises(DeadlineExceeded) as caught:
        attempt(remote, what)
    assert 0.2 == pytest.approx(caught.value.seconds, abs=0.05)
    check_message(caught.value)


@frozen
class Drip:
    """A body of single bytes, with a pause before each."""

    seconds: float

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer byte by byte."""
        response = respond(request)
        raw = b"".join(bytes(step) for step in response.body if isinstance(step, memoryview))
        steps = [step for byte in raw for step in (Pause(self.seconds), memoryview(bytes([byte])))]
        return evolve(response, body=tuple(steps))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Drip(0.05), Stall(10), Stall(None)])
@pytest.mark.parametrize("what", ["tag", "tags"])
def test_a_document_has_a_deadline(registry: Registry, fault: Fault, what: str) -> None:
    """However alive the connection is, a document has to be here in time; the error says which time that was."""
    registry.fault(fault)
    remote = connected(registry, timeouts=distsdk.Timeouts(read=300, document=0.4))
    with pytest.raises(DeadlineExceeded) as caught:
        attempt(remote, what)
    assert caught.value.seconds <= 0.4
    check_message(caught.value)


@pytest.mark.slow
def test_a_blob_has_no_deadline(registry: Registry) -> None:
    """A slow blob that goes on is let go on."""
    small = registry.add_blob(REPOSITORY, b"slowly").digest
    registry.fault(Drip(0.1), path="/blobs/", method="GET")
    remote = connected(registry, timeouts=distsdk.Timeouts(read=2, document=0.2))
    assert b"slowly" == remote.fetch(small).read()


@pytest.mark.parametrize("repository", ["library/manifests", "manifests/blobs", "blobs/manifests/x"])
def test_repositories_named_like_the_protocols_words(repository: str) -> None:
    """What a path asks for is told by its last segments, not by a repository's name."""
    with Registry() as registry:
        registry.add_image(repository, "1", layers=[b"layer" * 1000])
        remote = connected(registry, repository)
        (layer,) = remote.manifest("1").layers
        assert b"layer" * 1000 == remote.fetch(layer).read()
        assert media.OCTET_STREAM == remote.fetch(layer.digest).media_type
        with pytest.raises(NotFound):
            remote.fetch(f"sha256:{'0' * 64}", f"mediatype:{media.OCI_MANIFEST}")
        assert [] == [r for r in registry.requests if "/blobs/sha256" in r.path and "Accept" in r.headers]


# Connections


def test_head_returns_its_connection_to_the_pool(registry: Registry) -> None:
    """Thirty resolves, of tags, digests, and missing ones, open one connection."""
    remote = connected(registry)
    for number in range(10):
        remote.resolve("7")
        remote.resolve(DIGEST, f"size:{len(DATA)}")
        with pytest.raises(NotFound):
            remote.resolve(f"none{number}")
    assert [0] == [connection.number for connection in registry.connections]


ERRORS: dict[str, Fault] = {
    "not found": Status.error(404, "MANIFEST_UNKNOWN"),
    "denied": Status.error(403, "DENIED"),
    "broken": Status(500, "<html>broken</html>"),
    "too many": Status(429, "slow down"),
    "nothing": Status(503),
}


@pytest.mark.parametrize("fault", ERRORS.values(), ids=ERRORS)
def test_error_response_returns_its_connection_to_the_pool(registry: Registry, fault: Fault) -> None:
    """Errors in response to GET and HEAD leave the connection open for the next request."""
    registry.fault(fault)
    remote = connected(registry, retry=Retry(attempts=1))
    for _ in range(10):
        with pytest.raises(DistError):
            remote.fetch("7")
        with pytest.raises(DistError):
            remote.resolve("7")
    assert [0] == [connection.number for connection in registry.connections]


def test_redirected_head_returns_its_connections_to_the_pool(registry: Registry) -> None:
    """A HEAD that is redirected keeps one connection to each host."""
    with Registry(content_of=registry) as storage:
        registry.fault(Redirect(f"{storage.url}{{path}}"), path="/blobs/")
        remote = connected(registry)
        for _ in range(10):
            assert len(DATA) == remote.fetch(DIGEST).size
        assert [1, 1] == [len(host.connections) for host in (registry, storage)]
