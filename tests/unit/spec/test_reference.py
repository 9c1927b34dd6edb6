from __future__ import annotations

import pickle
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distsdk.errors import InvalidDigest, InvalidHint, InvalidReference
from distsdk.spec.digest import Digest
from distsdk.spec.reference import Hint, Locator, Object, Reference

F = "f" * 64
DIGEST = f"sha256:{F}"
HEX64 = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"

# distribution/reference, normalize_test.go: TestParseRepositoryInfo, TestParseAnyReference, TestValidateReferenceName.
# What is typed, the canonical and the familiar form.
NAMES = [
    ("redis", "docker.io/library/redis", "redis"),
    ("library/redis", "docker.io/library/redis", "redis"),
    ("docker.io/redis", "docker.io/library/redis", "redis"),
    ("index.docker.io/library/redis", "docker.io/library/redis", "redis"),
    ("index.docker.io/redis", "docker.io/library/redis", "redis"),
    ("index.docker.io/fooo/bar", "docker.io/fooo/bar", "fooo/bar"),
    ("nonlibrary/ubuntu", "docker.io/nonlibrary/ubuntu", "nonlibrary/ubuntu"),
    ("other/library", "docker.io/other/library", "other/library"),
    ("library/foo/bar", "docker.io/library/foo/bar", "library/foo/bar"),
    ("store/foo/bar", "docker.io/store/foo/bar", "store/foo/bar"),
    ("ubuntu-12.04-base/x", "ubuntu-12.04-base/x", "ubuntu-12.04-base/x"),
    ("localhost/fooo", "localhost/fooo", "localhost/fooo"),
    ("localhost:5000/fooo/bar", "localhost:5000/fooo/bar", "localhost:5000/fooo/bar"),
    ("LOCALDOMAIN/fooo/bar", "LOCALDOMAIN/fooo/bar", "LOCALDOMAIN/fooo/bar"),
    ("Foo/bar", "Foo/bar", "Foo/bar"),
    ("127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase", "127.0.0.1:8000/privatebase"),
    ("192.168.0.1:8/debian", "192.168.0.1:8/debian", "192.168.0.1:8/debian"),
    ("example.com/private/moonbase", "example.com/private/moonbase", "example.com/private/moonbase"),
    ("test:5000/repo", "test:5000/repo", "test:5000/repo"),
    ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
    ("[2001:db8:1:2:3:4:5:6]/repo", "[2001:db8:1:2:3:4:5:6]/repo", "[2001:db8:1:2:3:4:5:6]/repo"),
    ("xn--n3h.com/myimage", "xn--n3h.com/myimage", "xn--n3h.com/myimage"),
    ("b.gcr.io/test.example.com/my-app", "b.gcr.io/test.example.com/my-app", "b.gcr.io/test.example.com/my-app"),
    ("docker---rules/docker", "docker.io/docker---rules/docker", "docker---rules/docker"),
    ("dock__er/docker", "docker.io/dock__er/docker", "dock__er/docker"),
    ("d/docker", "docker.io/d/docker", "d/docker"),
    (f"docker.io/{HEX64}", f"docker.io/library/{HEX64}", f"library/{HEX64}"),
    (f"docker.io/a/{'a' * 253}", f"docker.io/a/{'a' * 253}", f"a/{'a' * 253}"),
]

# normalize_test.go and reference_test.go, what they refuse; and more.
NO_NAMES = [
    ("", "an empty name"),
    ("docker/Docker", "in lower case"),
    ("Uppercase", "in lower case"),
    ("test:5000/Uppercase/lowercase", "in lower case"),
    ("-docker", "is not a repository"),
    ("-docker/docker", "is not a repository"),
    ("docker-/docker", "is not a repository"),
    ("-docker.io/docker/docker", "is not a registry host"),
    ("docker///docker", "is not a repository"),
    ("____/____", "is not a repository"),
    ("_docker/_docker", "is not a repository"),
    ("dock..er/docker", "is not a registry host"),
    ("a/dock..er", "is not a repository"),
    ("a/dock_.er", "is not a repository"),
    ("a/dock___er", "is not a repository"),
    ("docker.io/x/", "is not a repository"),
    ("example.com//x", "is not a repository"),
    ("fc00::1:5000/debian", "is not a registry host"),
    ("[fe80::1%eth0]:5000/debian", "is followed by '%'"),
    ("[2001:db8:3:4::192.0.2.33]:5000/debian", "is not a registry host"),
    ("[fd00123123123]:75/x", "is not an IPv6 address"),
    ("[::1]:x/x", "is not a registry host"),
    ("[]/x", "is not a repository"),
    (HEX64, f"write host/path@sha256:{HEX64} for a digest, or docker.io/{HEX64} for a repository"),
    (f"sha256:{HEX64}", f"write host/path@sha256:{HEX64}$"),
    (f"sha512:{F}{F}", f"write host/path@sha512:{F}{F}$"),
    ("aa/asdf$$^/aa", r"is followed by '\$'"),
    (f"docker.io/a/{'a' * 254}", "at most 255"),
    (f"{'a' * 64}.com/x", "is not a registry host"),
    (f"{'a.' * 127}com/x", "is not a registry host"),
    ("foo_bar.com/x", "is not a registry host"),
    ("example.com:0/x", "impossible port"),
    ("example.com:65536/x", "impossible port"),
    ("example.com:123456/x", "is not a registry host"),
    ("example.com:/x", "is not a registry host"),
    ("example.com:http/x", "is not a registry host"),
    ("re dis", "is followed by ' '"),
    ("redis ", "is followed by ' '"),
    ("redis\n", r"is followed by '\\n'"),
    ("redis\x00", r"is followed by '\\x00'"),
    ("ghcr.io/x?sig=SECRET", r"'ghcr.io/x' is followed by '\?'"),
    ("ghcr.io/x#SECRET", "'ghcr.io/x' is followed by '#'"),
    ("ghcr.io/%2e%2e/x", "is followed by '%'"),
    ("ghcr.io\\x", r"is followed by"),
    ("ghcr.io/jos\u00e9", "is followed by"),
    ("ghcr.io/\u212a", "is followed by"),
    ("ghcr.io/a/../b", "segment '.' or '..'"),
    ("ghcr.io/./b", "segment '.' or '..'"),
    ("ghcr.io/..", "segment '.' or '..'"),
    ("docker://redis", "write it as redis"),
    ("docker://ghcr.io/x", "write it as ghcr.io/x"),
    ("oci://ghcr.io/x", "write it as ghcr.io/x"),
    ("https://ghcr.io/x", "write it as ghcr.io/x"),
    ("HTTP://ghcr.io/x", "write it as ghcr.io/x"),
    ("https://ghcr.io/x?token=SECRET", "write it as ghcr.io/x$"),
    ("https://ghcr.io", "write it as ghcr.io$"),
    ("https://ghcr.io/", "write it as ghcr.io/$"),
    ("https://index.docker.io/v1/", "write it as index.docker.io/$"),
    ("https://ghcr.io/v2/", "write it as ghcr.io/$"),
    ("https://ghcr.io/v2/x/", "has a scheme"),
    ("http://localhost:5000/x", "write it as localhost:5000/x$"),
    ("http://files.example/layout", "for files, end a layout's URL with / and an archive's with .tar"),
    ("dist://ghcr.io/x", "write it as ghcr.io/x$"),
    ("oci:x", r"write \./x; the image oci is docker.io/library/oci:x"),
    ("oci:/x:7", "write /x:7;"),
    ("oci-archive:x.tar", r"write \./x\.tar$"),
    ("oci-archive://x.tar", r"write \./x\.tar$"),
    ("docker-archive:x.tar:redis:7", r"write \./x\.tar, and let copy --docker write such an archive$"),
    ("docker-daemon:redis:7", "in a store of theirs"),
    ("containers-storage:redis", "in a store of theirs"),
    ("containers-storage://redis", "in a store of theirs"),
    # Paths and URLs of files
    ("./x\n", "cannot be shown"),
    ("./x\x00", "cannot be shown"),
    ("./x\u202e", "cannot be shown"),
    ("./x\udcff", "cannot be shown"),
    ("s3://bucket/x\n", "cannot be shown"),
    (f"./{'x' * 4096}", "at most 4096"),
    ("s3://", "names nothing"),
    ("s3:///", "names nothing"),
    ("s3://bucket/x?version=SECRET", r"'s3://bucket/x' is followed by '\?'"),
    ("s3://bucket/x#SECRET", "is followed by '#'"),
    ("https://files.example/x.tar?signature=SECRET", r"'https://files.example/x.tar' is followed by '\?'"),
    ("s3://bucket/x::file:///etc", "is followed by '::'"),
    ("simplecache::s3://bucket/x", "is not a registry host"),
    ("s3://bucket/../x", "segment '.' or '..'"),
    ("memory://./x", "segment '.' or '..'"),
    ("file://host/x", "write file:///path"),
    ("1x://y", "is not a registry host"),
    (".x", "is not a repository"),
    (".:a/b", "is not a registry host"),
    (".@a:b", "looks like a reference|is not a repository"),
    (".@a@b", "an '@' that no digest follows"),
    ("...", "is not a repository"),
    (f"./x@sha256:{F[:5]}", "64 hex digits, here are 5"),
]

# Files: what is typed, the canonical locator, and the tag in it.
PLACES = [
    ("./x", "./x", None),
    ("./x/", "./x", None),
    ("./x.tar:v1", "./x.tar", "v1"),
    ("../x/y:7", "../x/y", "7"),
    ("/srv/x", "/srv/x", None),
    ("//x//", "//x", None),
    ("/", "/", None),
    ("/:7", "/", "7"),
    (".", ".", None),
    ("./", ".", None),
    (".:7", ".", "7"),
    ("..:7", "..", "7"),
    ("..", "..", None),
    ("~", "~", None),
    ("~/x:7", "~/x", "7"),
    ("~somebody/x", "~somebody/x", None),
    # A slash makes a colon part of a name, as an '@' is that no digest follows.
    ("./a:b/", "./a:b/", None),
    ("./a:b//:7", "./a:b/", "7"),
    ("./me@example", "./me@example/", None),
    ("./me@example:7", "./me@example/", "7"),
    ("./x@sha256/:7", "./x@sha256/", "7"),
    ("/home/me@example/x", "/home/me@example/x", None),
    ("./user:7@x/y", "./user:7@x/y", None),
    ("./Grün & Blau?#%20", "./Grün & Blau?#%20", None),
    ("s3://bucket", "s3://bucket", None),
    ("s3://bucket:7", "s3://bucket", "7"),
    ("S3://Bucket/layout/:7", "s3://Bucket/layout", "7"),
    ("memory://x", "memory://x", None),
    ("file:///srv/x:7", "file:///srv/x", "7"),
    ("sftp://host:22/x:7", "sftp://host:22/x", "7"),
    ("https://files.example/layout/", "https://files.example/layout/", None),
    ("https://files.example/layout//:7", "https://files.example/layout/", "7"),
    ("http://127.0.0.1:8000/v1/x.tar/", None, None),
    ("HTTP://127.0.0.1:8000/x.tar:7", "http://127.0.0.1:8000/x.tar", "7"),
]


@pytest.mark.parametrize(("text", "canonical", "familiar"), NAMES)
def test_names_are_read_as_distribution_reads_them(text: str, canonical: str, familiar: str) -> None:
    """A familiar name is completed, a full one is kept, and both forms are read back as the same."""
    locator = Locator.parse(text)
    assert (canonical, familiar) == (str(locator), locator.familiar)
    assert canonical == f"{locator.host}/{locator.repository}"
    assert [locator, locator] == [Locator.parse(canonical), Locator.parse(familiar)]
    assert Reference(locator, "latest") == Reference.parse(text)


@pytest.mark.parametrize(("text", "cause"), NO_NAMES)
@pytest.mark.parametrize("parse", [Locator.parse, Reference.parse])
def test_what_is_no_name_is_refused_with_its_cause(text: str, cause: str, parse: object) -> None:
    """The message says what is wrong or how to write it here, and shows nothing after a ``?``."""
    assert callable(parse)
    with pytest.raises(InvalidReference, match=cause) as caught:
        parse(text)
    assert "SECRET" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("page", "image"),
    [
        ("_/redis", "redis"),
        ("_/redis/", "redis"),
        ("_/redis:7", "redis:7"),
        ("_/redis/tags?name=SECRET", "redis"),
        ("r/org/name", "org/name"),
        ("r/org/name/", "org/name"),
        ("r/org/name:7.2", "org/name:7.2"),
        ("r/org/name/tags?page=SECRET", "org/name"),
        ("repository/docker/org/name/general", "org/name"),
        (f"layers/library/redis/7/images/sha256-{F}?context=SECRET", "redis:7"),
        ("layers/org/name/7.2/images/#SECRET", "org/name:7.2"),
        ("", "org/name, or name for an official image"),
        ("u/org", "org/name, or name for an official image"),
        ("_/Redis", "org/name, or name for an official image"),
        ("search?q=SECRET", "org/name, or name for an official image"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "https://", "http://"])
def test_pages_of_docker_hub_are_refused(scheme: str, page: str, image: str) -> None:
    """A pasted page of hub.docker.com is refused with the name to write, which parses."""
    for parse in (Locator.parse, Reference.parse):
        with pytest.raises(
            InvalidReference, match=f"is a page of Docker Hub's web site, not an image: write {image}$"
        ) as e:
            parse(f"{scheme}hub.docker.com/{page}")
        assert "SECRET" not in str(e.value)
    if " " not in image:
        assert "docker.io" == Reference.parse(image).locator.host
    with pytest.raises(InvalidReference, match="is a page of Docker Hub's web site"):
        Locator("hub.docker.com", "org/name")


def test_advice_for_hex_digits_parses() -> None:
    """The forms that the errors about bare hex digits and bare digests name are read as a digest and a repository."""
    assert Digest.parse(f"sha256:{HEX64}") == Reference.parse(f"host.example/path@sha256:{HEX64}").digest
    assert f"library/{HEX64}" == Reference.parse(f"docker.io/{HEX64}").locator.path
    with pytest.raises(InvalidReference, match="write it as algorithm:hex, such as sha256"):
        Reference.parse(f"redis@{HEX64}")


@pytest.mark.parametrize("name", ["oci", "docker-daemon", "sha256", "sha512", "ghcr.io", HEX64])
@pytest.mark.parametrize("tag", ["latest", "7", HEX64])
def test_familiar_names_parse_with_any_tag(name: str, tag: str) -> None:
    """The familiar form of an image is read back, whatever the bare name with a tag would mean."""
    reference = Reference(Locator("docker.io", f"library/{name}"), tag)
    assert f"library/{name}:{tag}" == reference.familiar
    assert reference == Reference.parse(reference.familiar)


@pytest.mark.parametrize(("text", "canonical", "tag"), PLACES)
def test_paths_and_urls_name_files(text: str, canonical: str | None, tag: str | None) -> None:
    """What begins like a path or a URL is one; nothing is looked at, and tag and digest follow as they do a name."""
    if canonical is None:
        with pytest.raises(InvalidReference, match="has a scheme"):
            Locator.parse(text)
        return
    locator = Locator("", canonical)
    assert locator.names_files
    assert (canonical, canonical, canonical) == (str(locator), locator.familiar, locator.path)
    assert locator == Locator.parse(canonical) == pickle.loads(pickle.dumps(locator))  # noqa: S301 - our own bytes
    assert Reference(locator, tag or "latest") == Reference.parse(text)
    assert Reference(locator, tag, Digest.parse(DIGEST)) == Reference.parse(f"{text}@{DIGEST}")
    for reference in (Reference(locator, tag or "latest"), Reference(locator, tag, Digest.parse(DIGEST))):
        assert [reference, reference] == [Reference.parse(str(reference)), Reference.parse(reference.familiar)]
    if tag is None:
        assert locator == Locator.parse(text)
    else:
        with pytest.raises(InvalidReference, match="looks like a reference"):
            Locator.parse(text)


def test_registries_name_no_files() -> None:
    """A host is what makes a locator one of a registry."""
    assert not Locator.parse("redis").names_files
    assert not Locator.parse("ghcr.io").names_files


@pytest.mark.parametrize(
    "path", ["", "x", "./x/", "./x:7", "./x:", f"./x@{DIGEST}", "S3://x", "s3://x/", "oci://x", "./x@y"]
)
def test_files_have_one_form(path: str) -> None:
    """As for registries, there is no way to hold a locator that would not be read back as itself."""
    with pytest.raises(InvalidReference):
        Locator("", path)


def test_what_follows_a_path_has_to_be_a_tag() -> None:
    """The message says how a name with a colon is written."""
    with pytest.raises(InvalidReference, match=r"is not a tag: write one, or end the path with /"):
        Reference.parse("./backup 10:30 Uhr")


@pytest.mark.parametrize(
    ("text", "locator", "tag", "digest", "familiar"),
    [
        ("redis", "docker.io/library/redis", "latest", None, "redis:latest"),
        ("redis:7", "docker.io/library/redis", "7", None, "redis:7"),
        ("redis:Upper_7.2-x", "docker.io/library/redis", "Upper_7.2-x", None, "redis:Upper_7.2-x"),
        (f"redis@{DIGEST}", "docker.io/library/redis", None, DIGEST, f"redis@{DIGEST}"),
        (f"redis:7@{DIGEST}", "docker.io/library/redis", "7", DIGEST, f"redis:7@{DIGEST}"),
        (f"test:5000/r:t@{DIGEST}", "test:5000/r", "t", DIGEST, f"test:5000/r:t@{DIGEST}"),
        ("[::1]:5000/x:7", "[::1]:5000/x", "7", None, "[::1]:5000/x:7"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000/repo", "5050", None, "192.168.1.1:5000/repo:5050"),
        # Without a slash nothing is a host: this is the image `ghcr.io` of Docker Hub, as it is for Docker.
        ("ghcr.io", "docker.io/library/ghcr.io", "latest", None, "library/ghcr.io:latest"),
        ("localhost:5000", "docker.io/library/localhost", "5000", None, "library/localhost:5000"),
        (f"redis:{'t' * 128}", "docker.io/library/redis", "t" * 128, None, f"redis:{'t' * 128}"),
        (f"x/y@sha512:{F}{F}", "docker.io/x/y", None, f"sha512:{F}{F}", f"x/y@sha512:{F}{F}"),
        # Alone it could be an image's identifier, with a tag it is a name.
        (f"{HEX64}:7", f"docker.io/library/{HEX64}", "7", None, f"library/{HEX64}:7"),
    ],
)
def test_references(text: str, locator: str, tag: str | None, digest: str | None, familiar: str) -> None:
    """A reference is a locator and an object; tag and digest are both kept, and `latest` is the tag where none is."""
    reference = Reference.parse(text)
    expected = Reference(Locator.parse(locator), tag, Digest.parse(digest) if digest else None)
    assert expected == reference
    assert familiar == reference.familiar
    assert [reference, reference] == [Reference.parse(str(reference)), Reference.parse(familiar)]
    assert Object.parse(reference.object) == Object(reference.tag, reference.digest)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("redis:", "is not a tag"),
        (":7", "is not a repository"),
        ("redis:.x", "is not a tag"),
        ("redis:-x", "is not a tag"),
        (f"redis:{'t' * 129}", "is not a tag"),
        ("a/b:c:d", "is not a repository"),
        (f"@{DIGEST}", "an empty name"),
        ("redis@sha256:ab", "64 hex digits, here are 2"),
        (f"redis@md5:{F[:32]}", "use sha256"),
        (f"redis@SHA256:{F}", "lower case"),
        (f"redis@sha256:{F.upper()}", "lower case"),
        (f"redis@{DIGEST}\n", "white space"),
        ("ghcr.io/", "names no repository"),
        ("docker/", "is not a repository"),
        ("[::1]", "names no repository"),
        ("[::1]:5000", "names no repository"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, cause: str) -> None:
    """The part that is wrong is named; a bad digest is chained."""
    with pytest.raises(InvalidReference, match=cause) as caught:
        Reference.parse(text)
    assert isinstance(caught.value.__cause__, InvalidDigest) == ("@" in text and "empty" not in cause)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost:5000"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]", "[::1]"),
        ("[::1]:5000", "[::1]:5000"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("ghcr.io/", "ghcr.io"),
        ("registry:5000/", "registry:5000"),
        ("registry/", "registry"),
    ],
)
def test_a_host_alone_is_a_locator(text: str, host: str) -> None:
    """A registry as such has a locator too, as for its catalog."""
    locator = Locator.parse(text)
    assert Locator(host, "") == locator
    assert [locator, locator] == [Locator.parse(str(locator)), Locator.parse(locator.familiar)]
    with pytest.raises(InvalidReference, match="is a host alone"):
        Reference(locator, "latest")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("redis:7", r"for a registry host and its port write redis:7/; otherwise give 'redis' .* and '7'"),
        ("registry:5000", "write registry:5000/"),
        ("ghcr.io/x:latest", "give 'ghcr.io/x' as the locator and 'latest' as the object"),
        (f"redis@{DIGEST}", f"give 'redis' as the locator and '{DIGEST}' as the object"),
        (f"redis:7@{DIGEST}", f"give 'redis' as the locator and '7@{DIGEST}' as the object"),
        ("[::1]:5000/x:y", "give .* as the locator and 'y' as the object"),
        ("example.com:99999", "give 'example.com' as the locator|impossible port"),
    ],
)
def test_a_locator_carries_no_object(text: str, cause: str) -> None:
    """A reference where a locator belongs is refused, and taken apart in the message."""
    with pytest.raises(InvalidReference, match=cause):
        Locator.parse(text)


SECRETS = [
    "user:{}@ghcr.io/x",
    "user:{}@ghcr.io/x:latest",
    "user:{}@ghcr.io",
    "{}@ghcr.io/x",
    "user:{}@localhost:5000/x",
    "user:{}@registry:5000",
    "user:{}@shared:5000/x",
    "user:{}@sha256:5000/x",
    "user:{}@md5:5000",
    "user:{}@sha1.example.com/x",
    "https://user:{}@ghcr.io/x",
    "docker://user:{}@ghcr.io/x:7",
    "user:{}@ghcr.io/x@" + DIGEST,
    "user:{}@ghcr.io/x:7@" + DIGEST,
    "user:{}@ghcr.io/x@sha256:ab",
    "user:a@{}@ghcr.io/x",
    "user:{}@",
    "s3://user:{}@bucket/x",
    "s3://user:{}@bucket/x:7",
    "https://user:{}@files.example/x.tar",
    "s3://user:{}@bucket/x@" + DIGEST,
    "user:{} \u00e9\n@ghcr.io/x",
    "user:{}@[::1]:5000/x",
    "user:{}@host/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("parse", [Locator.parse, Reference.parse])
def test_a_password_is_refused_and_not_shown(text: str, parse: object) -> None:
    """Neither the message nor what it is chained to holds anything of what precedes the ``@``."""
    assert callable(parse)
    with pytest.raises(InvalidReference) as caught:
        parse(text.format("hunter2"))
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!s} {error!r} {error.args}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("docker.io", "redis"),
        ("index.docker.io", "library/redis"),
        ("registry", "x"),
        ("ghcr.io", "X"),
        ("ghcr.io/x", ""),
        ("", "x"),
        ("user:pw@ghcr.io", "x"),
        ("ghcr.io", "x:7"),
        ("ghcr.io", "../x"),
        ("ghcr.io\n", "x"),
        ("ghcr.io", "x\n"),
    ],
)
def test_the_constructor_takes_canonical_parts_only(host: str, path: str) -> None:
    """There is no way to hold a locator that would not be read back as itself."""
    with pytest.raises(InvalidReference):
        Locator(host, path)


@pytest.mark.parametrize(
    ("text", "tag", "digest"),
    [("latest", "latest", None), (DIGEST, None, DIGEST), (f"7@{DIGEST}", "7", DIGEST), ("_x.Y-z", "_x.Y-z", None)],
)
def test_objects(text: str, tag: str | None, digest: str | None) -> None:
    """A remote is asked for a tag, a digest, or both."""
    parsed = Object.parse(text)
    assert (tag, digest) == (parsed.tag, None if parsed.digest is None else str(parsed.digest))
    assert text == str(parsed)
    assert f"Object('{text}')" == repr(parsed)


@pytest.mark.parametrize("text", ["", ".x", "-x", "a b", "x\n", "../x", "x/y", "t" * 129, f"@{DIGEST}", "\u0661"])
def test_what_is_no_tag_is_refused(text: str) -> None:
    """A tag becomes part of a path, so nothing else than a tag passes."""
    with pytest.raises(InvalidReference, match="is not a tag"):
        Object.parse(text)


@pytest.mark.parametrize("text", ["sha256:ab", "a:b", "x@", "x@y", f"x@{DIGEST} ", "sha256:../x", f"md5:{F[:32]}"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    """With a colon it is meant to be a digest."""
    with pytest.raises(InvalidDigest):
        Object.parse(text)


def test_an_object_is_something() -> None:
    """Neither tag nor digest asks for nothing."""
    with pytest.raises(InvalidReference, match="neither tag nor digest"):
        Object()
    with pytest.raises(InvalidReference, match="neither tag nor digest"):
        Reference(Locator.parse("redis"))


# --- distribution's own rules, translated from regexp.go and normalize.go, to be held against ours -------------------

_ALNUM = r"[a-z0-9]+"
_COMPONENT = rf"{_ALNUM}(?:(?:[._]|__|[-]+){_ALNUM})*"
_REMOTE = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"((?:{_DOMAIN}/)?{_REMOTE})(?::(\w[\w.-]{{0,127}}))?"
    r"(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_NAME = re.compile(rf"(?:({_DOMAIN})/)?({_REMOTE})")


def distribution(text: str) -> tuple[str, str, str | None, str | None] | None:
    """Return domain, path, tag and digest as distribution's ParseNormalizedNamed does, or None where it refuses."""
    if re.fullmatch(r"[a-f0-9]{64}", text):
        return None
    first, slash, rest = text.partition("/")
    if not slash:
        domain, remainder = "docker.io", f"library/{text}"
    else:
        if first == "localhost":
            domain, remainder = first, rest
        elif first == "index.docker.io":
            domain, remainder = "docker.io", rest
        elif "." in first or ":" in first or first.lower() != first:
            domain, remainder = first, rest
        else:
            domain, remainder = "docker.io", text
        if domain == "docker.io" and "/" not in remainder:
            remainder = f"library/{remainder}"
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        return None
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    name = match and _NAME.fullmatch(match[1])
    if not match or not name or len(name[2]) > 255:
        return None
    if match[3] is not None and not re.fullmatch(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}", match[3]):
        return None
    return name[1] or "", name[2], match[2], match[3]


HOSTS = st.sampled_from(
    [
        *[
            "docker.io",
            "index.docker.io",
            "localhost",
            "ghcr.io",
            "localhost:5000",
            "test:1",
            "Foo",
            "[::1]",
            "[::1]:80",
        ],
        *["a.b:65535", "a.b:0", "a_b.c", "registry", "library", "oci", "[1]", "x-.y", "UPPER.case", ""],
    ]
)
SEGMENTS = st.sampled_from(
    ["redis", "library", "a.b", "a__b", "a--b", "a..b", "oci", "Up", HEX64, "x_", "", "docker.io"]
)
TAGS = st.sampled_from(["", ":latest", ":7", ":5000", ":Up_.-", ":", ":.x", "::", ":a:b"])
DIGESTS = st.sampled_from(
    ["", "", "", f"@{DIGEST}", f"@sha512:{F}{F}", f"@{DIGEST[:-1]}", "@x", f"@sha256:{F.upper()}"]
)
LIKELY = st.builds(
    lambda segments, tag, digest: "/".join(segments) + tag + digest,
    st.one_of(
        st.builds(lambda host, path: [host, *path], HOSTS, st.lists(SEGMENTS, max_size=3)),
        st.lists(SEGMENTS, min_size=1, max_size=3),
    ),
    TAGS,
    DIGESTS,
)
ANY = st.one_of(LIKELY, st.text(string.ascii_letters + string.digits + "./:@[]_-%~", max_size=40), st.text(max_size=20))

# What distribution takes and distsdk refuses, each for a reason in docs/explanation/references.md.
REFUSED_ON_PURPOSE = (
    "how other tools name files",
    "how other tools name an image in a store",
    "impossible port",
    "is not an IPv6 address",
    "is not a registry host",
)


@given(ANY)
@example("foo_bar.com/x")
@example("a.b:99999/x")
@example("[1]/x")
@example(f"{HEX64}:7")
@example("oci:latest")
def test_references_are_those_of_distribution(text: str) -> None:
    """What distsdk takes, distribution reads the same; what only distribution takes is on a short list."""
    expected = distribution(text)
    found, refusal = None, ""
    try:
        found = Reference.parse(text)
    except InvalidReference as error:
        refusal = str(error)
    if found is None:
        assert expected is None or any(reason in refusal for reason in REFUSED_ON_PURPOSE)
        return
    assert found.locator.names_files == (expected is None), "distribution takes no paths"
    if expected is None:
        return
    host, path, tag, digest = expected
    if tag is None and digest is None:
        tag = "latest"
    assert (host, path, tag) == (found.locator.host, found.locator.path, found.tag)
    assert digest == (None if found.digest is None else str(found.digest))


@given(ANY)
def test_references_are_read_back_as_themselves(text: str) -> None:
    """The canonical and the familiar form of a reference mean the same reference."""
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert reference == Reference.parse(str(reference))
    assert reference == Reference.parse(reference.familiar)
    assert reference.locator == Locator.parse(str(reference.locator))
    assert reference.locator == Locator.parse(reference.locator.familiar)


@given(st.one_of(ANY, st.builds(lambda host, path: f"{host}/{path}", HOSTS, SEGMENTS), HOSTS))
def test_locators_are_read_back_as_themselves(text: str) -> None:
    """The canonical and the familiar form of a locator mean the same locator; any other text is `InvalidReference`."""
    try:
        locator = Locator.parse(text)
    except InvalidReference:
        return
    assert locator == Locator.parse(str(locator))
    assert locator == Locator.parse(locator.familiar)
    assert locator == Locator(locator.host, locator.path)


@given(st.text(max_size=30))
def test_objects_are_read_back_or_refused(text: str) -> None:
    """Any text is an object that is written as it was, or one of two errors."""
    try:
        parsed = Object.parse(text)
    except (InvalidReference, InvalidDigest):
        return
    assert text == str(parsed)


def test_long_names_take_no_time() -> None:
    """No input makes the grammar backtrack."""
    for text in ["a-" * 50_000, "a." * 50_000 + "/x", "a_" * 100 + "!", "[" + ":" * 50_000 + "]/x", "a/" * 50_000]:
        with pytest.raises(InvalidReference):
            Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("mediatype:application/json", "mediatype", "application/json"),
        ("mediatype:Application/JSON", "mediatype", "application/json"),
        ("size:0", "size", "0"),
        ("size:9223372036854775807", "size", "9223372036854775807"),
        ("platform:linux/arm64", "platform", "linux/arm64"),
        ("platform:windows(10.0.17763)/amd64", "platform", "windows(10.0.17763)/amd64"),
        ("unknown:a:b c", "unknown", "a:b c"),
        ("unknown:", "unknown", ""),
        ("unknown:jos\u00e9", "unknown", "jos\u00e9"),
    ],
)
def test_hints(text: str, kind: str, value: str) -> None:
    """The kind is what precedes the first colon; hints of unknown kinds are kept as they are."""
    hint = Hint.parse(text)
    assert Hint(kind, value) == hint
    assert f"{kind}:{value}" == str(hint)
    assert hint == Hint.parse(str(hint))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "write kind:value"),
        ("latest", "write kind:value"),
        (":x", "write kind:value"),
        ("mediatype:", "is not a media type"),
        ("mediatype:json", "is not a media type"),
        ("mediatype:a/b; c=d", "without parameters"),
        ("mediatype:a/b\r\nX: y", "cannot be shown"),
        ("size:", "number of bytes"),
        ("size:-1", "number of bytes"),
        ("size:1.5", "number of bytes"),
        ("size:1_000", "number of bytes"),
        ("size:0x10", "number of bytes"),
        ("size:007", "number of bytes"),
        ("size:\u0661", "number of bytes"),
        ("size:9223372036854775808", "number of bytes"),
        (f"size:{'9' * 5000}", "number of bytes"),
        ("platform:", "is not a platform"),
        ("platform:toaster", "neither an operating system nor an architecture"),
        ("unknown:a\x1b[2Jb", "cannot be shown"),
        ("unknown:a\u202eb", "cannot be shown"),
        ("unkn\nown:a", "cannot be shown"),
    ],
)
def test_what_is_no_hint_is_refused(text: str, cause: str) -> None:
    """Hints of the kinds that every remote knows are checked at once, and none can spoil a terminal."""
    with pytest.raises(InvalidHint, match=cause) as caught:
        Hint.parse(text)
    assert len(str(caught.value)) < 300


def test_reprs() -> None:
    """Values show the text that they are parsed from."""
    assert "Locator('docker.io/library/redis')" == repr(Locator.parse("redis"))
    assert "Locator('s3://bucket/layout')" == repr(Locator.parse("s3://bucket/layout"))
    assert "Reference('docker.io/library/redis:7')" == repr(Reference.parse("redis:7"))
    assert "Hint('size:1783')" == repr(Hint.parse("size:1783"))
    assert len(repr(Hint("x", "y" * 10_000))) < 200
