"""Names: locators, references, objects and hints.

The grammar is distribution's (https://github.com/distribution/reference, ``regexp.go`` and ``normalize.go``), with the
familiar names of Docker: ``redis`` is ``docker.io/library/redis``. Where others differ is written down in
``docs/explanation/references.md``. What begins like a path or a URL names files: an image layout or an archive of one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._repr import DisplayedAsText
from distsdk._text import quoted, shortened
from distsdk.errors import InvalidDigest, InvalidHint, InvalidReference
from distsdk.spec.descriptor import MAX_SIZE
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import parse_media_type
from distsdk.spec.platform import Platform

if TYPE_CHECKING:
    from typing import Self

_DEFAULT_HOST = "docker.io"
_LEGACY_DEFAULT_HOST = "index.docker.io"
_OFFICIAL = "library/"
_DEFAULT_TAG = "latest"

#: Characters of a repository's path, as in distribution's ``RepositoryNameTotalLengthMax``.
_MAX_PATH = 255
#: Characters of a host name without its port, https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4.
_MAX_HOST = 253
_MAX_PORT = 65535
#: Characters of a path or URL of files, PATH_MAX of Linux.
_MAX_FILES = 4096

# distribution's regexp.go; a label has at most 63 characters, since no host with a longer one can be looked up.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[([a-fA-F0-9:]+)\])(?::([0-9]{{1,5}}))?")
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ALONE = re.compile(r"[a-f0-9]{64}")
_DIGEST_ALONE = re.compile(r"sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128}")

#: What is a digest, if perhaps a wrong one, and not the host after a password: a hash's name, or that many hex digits.
_LIKE_DIGEST = re.compile(
    r"(?:sha-?[0-9]+|md5|blake[0-9][a-z0-9]*):[^/]*|[^:/]*:[0-9a-f]{32,}|[0-9a-f]{64}", re.IGNORECASE
)
_STRANGE = re.compile(r"[^A-Za-z0-9._:/\[\]-]")

#: Transports of other tools, which write ``oci:directory`` or ``docker-daemon:name:tag``.
_FOREIGN = ("docker-daemon", "docker-archive", "containers-storage", "oci-archive", "oci")
#: Those of them that are places of their own, and no files by a name.
_FOREIGN_STORES = ("docker-daemon", "containers-storage")

#: Official images that keep ``library/`` in `Locator.familiar`, since the bare name with a tag means something else.
_AMBIGUOUS = (*_FOREIGN, "sha256", "sha384", "sha512")

#: Docker Hub's web site, with pages about images. The registry is `_DEFAULT_HOST`.
_HUB_PAGES = "hub.docker.com"

#: How a path begins that names files: ``/x``, ``./x``, ``../x``, ``~/x``, or one of these folders itself.
_FILES_PATH = re.compile(r"[/~]|\.{1,2}(?:/|(?::[^/]*|@[a-z0-9-]+:[^/@]*)?$)")
#: A relative path of an archive, written without ``./``: what has no host and ends so is not on Docker Hub.
_BARE_ARCHIVE = re.compile(r"(?:([^/:@]+)/)?(?:[^/:@]+/)*[^/:@]+\.tar(?::[^/@]*)?(?:@[A-Za-z0-9-]+:[^/@]*)?")
_FILES_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_API_ROOT = re.compile(r"/v[12]/?$")
_NO_URL = re.compile(r"[?#]|::")
#: The path of an HTTP URL that names files: a layout's folder or an archive, and not where registries answer.
_HTTP_FILES = re.compile(r"[^/]+/(?!v[12]/)(?:.+/|.*\.tar)")


@frozen(order=True)
class Locator(DisplayedAsText):
    """Where images are; it never carries a tag or a digest.

    Mostly that is a registry host and the path of a repository there. It can also be files, an image layout or an
    archive, named by their path or URL: then there is no host.

    ``str(locator)`` is the canonical form: ``docker.io/library/redis``, ``./layout``, ``s3://bucket/layout``.

    Args:
        host: Name or address, ``[…]`` around IPv6, perhaps with ``:port``; empty for files.
        path: The repository, up to 255 characters; empty for the host alone. For files, their path or URL, up to 4096
            characters; ``~`` stays as it is until they are read.

    Raises:
        InvalidReference: Something cannot be part of a name, or is not in its canonical form (`parse` takes others).

    Examples:
        >>> distsdk.Locator.parse("redis")
        Locator('docker.io/library/redis')
        >>> distsdk.Locator.parse("localhost:5000/team/app").host
        'localhost:5000'
    """

    host: str
    path: str

    def __attrs_post_init__(self) -> None:
        if self.names_files:
            _check_files(self.path)
            return
        _check_host(self.host)
        _refuse_hub_page(f"{self.host}/{self.path}")
        if self.path:
            _check_path(self.path)
        if self.host == _LEGACY_DEFAULT_HOST:
            raise InvalidReference(f"{_LEGACY_DEFAULT_HOST} is another name of {_DEFAULT_HOST}: use that")
        if self.path and not _like_host(self.host):
            raise InvalidReference(
                f"{quoted(self.host)} with a path is no host, but a part of one: add a port or a domain"
            )
        if self.host == _DEFAULT_HOST and self.path and "/" not in self.path:
            raise InvalidReference(f"{quoted(self.path)} on {_DEFAULT_HOST} is {_OFFICIAL}{self.path}: use that")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the locator that ``text`` spells.

        Args:
            text: ``host/path``; a familiar name of Docker Hub (``redis``, ``org/image``); or a host alone, which has a
                ``.``, is ``localhost``, or ends with ``/``: ``ghcr.io``, ``localhost:5000``, ``registry:5000/``. Or
                files: a path that begins with ``/``, ``./``, ``../`` or ``~``, a path without a host that ends in
                ``.tar``, or a URL; an HTTP URL only if it ends in ``/`` or ``.tar``.

        Raises:
            InvalidReference: It is not one; the message says how to write what is probably meant.
        """
        text = _as_path(text)
        name, tag, digest = _split(text)
        host, path = "" if _like_files(name) else _host_alone(text), ""
        if not host:
            if tag is not None or digest is not None:
                raise InvalidReference(_carries_object(name, text))
            host, path = _normalised(name)
        return cls(_DEFAULT_HOST if host == _LEGACY_DEFAULT_HOST else host, path)

    @property
    def names_files(self) -> bool:
        """Whether it is the path or URL of files: of a layout or an archive, and not of a registry."""
        return not self.host

    @property
    def repository(self) -> str:
        """The path, by the name that registries give it."""
        return self.path

    @property
    def familiar(self) -> str:
        """The name as Docker shows it, ``redis`` for ``docker.io/library/redis``; `parse` reads it back.

        ``library/`` or ``docker.io/`` stays where the name without it would mean something else, alone or with a tag:
        ``library/ghcr.io``, ``library/oci``, ``docker.io/foo.bar/x``.
        """
        if self.host != _DEFAULT_HOST or not self.path:
            return str(self)
        if _as_path(self.path) != self.path:
            return str(self)
        name = self.path.removeprefix(_OFFICIAL)
        if "/" not in name and not (_like_host(name) or name in _AMBIGUOUS or _HEX_ALONE.fullmatch(name)):
            return name
        return str(self) if _like_host(self.path.partition("/")[0]) else self.path

    def __str__(self) -> str:
        if self.names_files:
            return self.path
        if self.path:
            return f"{self.host}/{self.path}"
        # Without the slash, `registry:5000` would be a name with a tag.
        return self.host if _host_alone(self.host) else f"{self.host}/"

    def __repr__(self) -> str:
        return f"Locator('{shortened(str(self), 160)}')"

    def _repr_html_(self) -> str:
        from distsdk.display.html import locator

        return locator(self)


@frozen
class Object(DisplayedAsText):
    """What a remote is asked for: a tag, a digest, or a tag that is known to be at a digest.

    Args:
        tag: Up to 128 letters, digits and ``_.-``.
        digest: Wins over the tag where both are given.

    Raises:
        InvalidReference: The tag cannot be one, or both are missing.
    """

    tag: str | None = None
    digest: Digest | None = None

    def __attrs_post_init__(self) -> None:
        _check_object(self.tag, self.digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the object that ``text`` spells: ``tag``, ``sha256:…`` or ``tag@sha256:…``.

        Raises:
            InvalidReference: The tag cannot be one.
            InvalidDigest: There is a ``:``, and what stands around it is not a digest.
        """
        tag, at, digest = text.rpartition("@")
        if at:
            return cls(tag, Digest.parse(digest))
        if ":" in text:
            return cls(None, Digest.parse(text))
        return cls(text, None)

    def __str__(self) -> str:
        return _object_text(self.tag, self.digest)

    def __repr__(self) -> str:
        return f"Object('{self}')"


@frozen
class Reference(DisplayedAsText):
    """A locator and an object: ``str(reference)`` is ``docker.io/library/redis:7@sha256:…``.

    Args:
        locator: With a path.
        tag: Up to 128 letters, digits and ``_.-``.
        digest: Wins over the tag where both are given.

    Raises:
        InvalidReference: The tag cannot be one, tag and digest are both missing, or the locator is a host alone.

    Examples:
        >>> reference = distsdk.Reference.parse("redis:7")
        >>> str(reference), reference.tag
        ('docker.io/library/redis:7', '7')
    """

    locator: Locator
    tag: str | None = None
    digest: Digest | None = None

    def __attrs_post_init__(self) -> None:
        if not self.locator.path:
            raise InvalidReference(
                f"{quoted(str(self.locator))} is a host alone: name a repository, as in host/path:tag"
            )
        _check_object(self.tag, self.digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference that ``text`` spells; without tag and digest, the tag is ``latest``, as Docker has it.

        Args:
            text: ``[host/]path[:tag][@digest]``; a name without a host is on Docker Hub, as for `Locator.parse`. In a
                path or URL of files, too, a tag follows the last ``:`` after the last ``/``: ``./x.tar:v1``.

        Raises:
            InvalidReference: It is not one; the message says how to write what is probably meant.
        """
        text = _as_path(text)
        name, tag, digest = _split(text)
        if text.startswith("[") and "/" not in text:
            raise InvalidReference(f"{quoted(text)} names no repository: write [IPv6 address][:port]/path")
        if tag is None and digest is None:
            tag = _DEFAULT_TAG
        if tag is not None and _like_files(name) and not _TAG.fullmatch(tag):
            raise InvalidReference(
                f"what follows the last ':' of {quoted(text)} is not a tag: write one, or end the path with / if that "
                "is part of its name"
            )
        return cls(Locator(*_normalised(name)), tag, digest)

    @property
    def object(self) -> str:
        """What the locator's remote is asked for, ``tag``, ``sha256:…`` or ``tag@sha256:…``."""
        return _object_text(self.tag, self.digest)

    @property
    def familiar(self) -> str:
        """The reference as Docker shows it, ``redis:latest`` for ``docker.io/library/redis:latest``.

        `parse` reads it back. The tag is always there, ``latest`` too, so that the text is not always the shortest one.
        """
        return self.locator.familiar + self._suffix()

    def _suffix(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"

    def __str__(self) -> str:
        return f"{self.locator}{self._suffix()}"

    def __repr__(self) -> str:
        return f"Reference('{shortened(str(self), 180)}')"

    def _repr_html_(self) -> str:
        from distsdk.display.html import reference

        return reference(self)


#: Kinds of hints whose values are checked.
KNOWN_KINDS = ("mediatype", "platform", "size")


@frozen(order=True)
class Hint(DisplayedAsText):
    """Something a caller knows about an object, ``kind:value``; it helps a remote and is never trusted.

    Three kinds are known: ``mediatype``, ``size`` (in bytes) and ``platform``. Remotes ignore any other kind with a
    `DistWarning`, unless it is one of their own.

    Args:
        kind: What the value is.
        value: Checked where the kind is known.

    Raises:
        InvalidHint: The kind is empty, the value is not one of its kind, or something is not printable.

    Examples:
        >>> distsdk.Hint.parse("platform:linux/arm64").value
        'linux/arm64'
    """

    kind: str
    value: str

    def __attrs_post_init__(self) -> None:
        if not self.kind or ":" in self.kind:
            raise InvalidHint(
                f"{quoted(str(self))} is not a hint: write kind:value, such as mediatype:application/json"
            )
        if not self.kind.isprintable() or not self.value.isprintable():
            raise InvalidHint(f"the hint {quoted(str(self))} holds a character that cannot be shown: remove it")
        match self.kind:
            case "mediatype":
                self._check_media_type()
            case "size":
                if not re.fullmatch(r"0|[1-9][0-9]{0,18}", self.value) or int(self.value) > MAX_SIZE:
                    raise InvalidHint(f"the hint {quoted(str(self))} must be a number of bytes: write size:1783")
            case "platform":
                Platform.parse(self.value)

    def _check_media_type(self) -> None:
        try:
            canonical = parse_media_type(self.value) == self.value
        except ValueError as error:
            raise InvalidHint(f"the hint {quoted(str(self))}: {error}") from error
        if not canonical:
            raise InvalidHint(f"the hint {quoted(str(self))} must be a media type in lower case without parameters")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the hint that ``text`` spells: what is before the first ``:`` is the kind.

        Raises:
            InvalidHint: There is no ``:`` or no kind, or the value is not one of its kind.
        """
        kind, colon, value = text.partition(":")
        if not colon:
            raise InvalidHint(f"{quoted(text)} is not a hint: write kind:value, such as mediatype:application/json")
        return cls(kind, value.lower() if kind == "mediatype" else value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def __repr__(self) -> str:
        return f"Hint('{shortened(str(self), 160)}')"


def _as_path(text: str) -> str:
    """Return ``text`` with ``./`` before a relative path of an archive, ``x.tar:7``, and any other text as it is."""
    match = None if _FILES_PATH.match(text) else _BARE_ARCHIVE.fullmatch(text)
    return text if match is None or (match[1] and _like_host(match[1])) else f"./{text}"


def split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme, ``http`` or ``https``, and the rest of a registry's URL; no scheme and all of any other text.

    The URL of a layout or an archive, which ends with ``/`` or ``.tar``, is not a registry's.

    Args:
        text: A URL, or any other name.
    """
    match = _FILES_URL.fullmatch(text)
    if match is None or match[1].lower() not in {"http", "https"} or _HTTP_FILES.fullmatch(_split_tag(match[2])[0]):
        return "", text
    return match[1].lower(), _API_ROOT.sub("/", match[2])


def _split(text: str) -> tuple[str, str | None, Digest | None]:
    """Return name, tag and digest; a tag follows the last ``:`` of the last segment."""
    # First of all: until an '@' is known to be followed by a digest, what precedes it may end in a password, and no
    # message may show it. The name of a file may hold one.
    rest, at, after = text.rpartition("@") if "@" in text else (text, "", "")
    if _FILES_PATH.match(text):
        if not _LIKE_DIGEST.fullmatch(after):
            rest, at, after = text, "", ""
    elif at and ("@" in rest or not _LIKE_DIGEST.fullmatch(after)):
        raise InvalidReference(
            "an '@' that no digest follows: leave user and password out of the name (they are not shown here), "
            "and write host/path[:tag][@digest]"
        )
    try:
        digest = Digest.parse(after) if at else None
    except InvalidDigest as error:
        raise InvalidReference(f"the digest after '@' cannot be used: {error}") from error
    if _HEX_ALONE.fullmatch(text):
        raise InvalidReference(
            f"{quoted(text)} names no repository: write host/path@sha256:{text} for a digest, or "
            f"{_DEFAULT_HOST}/{text} for a repository of Docker Hub"
        )
    if _DIGEST_ALONE.fullmatch(text):
        raise InvalidReference(f"{quoted(text, 200)} is a digest without a repository: write host/path@{text}")
    _check_spelling(rest)
    name, tag = _split_tag(rest)
    return name, tag, digest


def _split_tag(text: str) -> tuple[str, str | None]:
    colon = text.rfind(":", text.rfind("/") + 1)
    return (text, None) if colon < 0 else (text[:colon], text[colon + 1 :])


def _normalised(name: str) -> tuple[str, str]:
    """Return host and path of a name without tag and digest, as distribution's ``splitDockerDomain``."""
    if _like_files(name):
        return "", _canonical_files(name)
    first, slash, rest = name.partition("/")
    if slash and _like_host(first):
        host, path = (_DEFAULT_HOST if first == _LEGACY_DEFAULT_HOST else first), rest
        if not path:
            raise InvalidReference(f"{quoted(name)} names no repository: write host/path")
    else:
        host, path = _DEFAULT_HOST, name
    if host == _DEFAULT_HOST and "/" not in path:
        path = _OFFICIAL + path
    return host, path


def _like_host(segment: str) -> bool:
    """Tell whether the first of several segments is a host: no other segment has a ``.:`` or an upper-case letter."""
    return segment == "localhost" or "." in segment or ":" in segment or segment.lower() != segment


def _host_alone(text: str) -> str:
    """Return the host where ``text`` is nothing else, or an empty string."""
    if text.endswith("/") and text.count("/") == 1:
        return text[:-1]
    match = _HOST.fullmatch(text)
    if match and (match[1] == "localhost" or "." in match[1] or match[2]):
        return text
    return ""


def _check_spelling(name: str) -> None:
    """Refuse what is no name whatever its parts are."""
    if not name:
        raise InvalidReference("an empty name: write host/path, such as docker.io/library/redis")
    if _like_files(name):
        _check_files_spelling(name)
        return
    _refuse_hub_page(name)
    _refuse_transport(name)
    strange = _STRANGE.search(name)
    if strange:
        # What follows ? or # in a pasted URL may be a signature.
        raise InvalidReference(
            f"{quoted(name[: strange.start()])} is followed by {quoted(strange[0])}, which no name contains: "
            "write host/path[:tag][@digest] in ASCII letters, digits and ._-"
        )
    if any(segment in {".", ".."} for segment in name.split("/")):
        raise InvalidReference(f"{quoted(name)} has a segment '.' or '..', which no name contains: write host/path")


def _refuse_hub_page(text: str) -> None:
    """Refuse a page of Docker Hub's web site, ``hub.docker.com/r/org/name``, and name the image that it is about."""
    host, _, rest = text.partition("/")
    if host.lower() != _HUB_PAGES:
        return
    page = re.split(r"[?#]", rest)[0]  # what follows is not repeated
    path = tag = ""
    match page.split("/"):
        case ["_", path, *_]:
            pass
        case ["layers", org, name, tag, *_]:
            path = f"{org}/{name}"
        case ["r", org, name, *_] | ["repository", "docker", org, name, *_]:
            path = f"{org}/{name}"
    path, colon, after = path.removeprefix(_OFFICIAL).partition(":")
    image = f"{path}:{after or tag}" if colon or tag else path
    if not _PATH.fullmatch(path) or (":" in image and not _TAG.fullmatch(after or tag)):
        image = "org/name, or name for an official image"
    raise InvalidReference(
        f"{quoted(f'{host}/{page}')} is a page of Docker Hub's web site, not an image: write {image}"
    )


def _refuse_transport(text: str) -> None:
    transport, colon, rest = text.partition(":")
    if not colon or transport not in _FOREIGN:
        return
    if transport in _FOREIGN_STORES:
        raise InvalidReference(
            f"{quoted(text)} is how other tools name an image in a store of theirs, which is not read here: "
            "save it to a file, as docker save does, and write ./file.tar"
        )
    if transport == "docker-archive":
        rest = rest.partition(":")[0]  # what follows is another image's name
    path = rest if _FILES_PATH.match(rest) else f"./{rest}"
    meant = f"; the image {transport} is {_DEFAULT_HOST}/{_OFFICIAL}{shortened(text)}" if transport == "oci" else ""
    written = ", and let copy --docker write such an archive" if transport == "docker-archive" else ""
    raise InvalidReference(f"{quoted(text)} is how other tools name files: write {shortened(path)}{written}{meant}")


# Files: paths and URLs


def _like_files(name: str) -> bool:
    """Tell whether a name is meant as a path or a URL."""
    return _FILES_PATH.match(name) is not None or _FILES_URL.match(name) is not None


def _check_files_spelling(name: str) -> None:
    """Refuse a path or URL, with its tag, that names no files."""
    if len(name) > _MAX_FILES:
        raise InvalidReference(f"{quoted(name)} is too long: a path or URL has at most {_MAX_FILES} characters")
    if not _FILES_PATH.match(name):
        _check_url(name)
    if not name.isprintable():
        raise InvalidReference(f"{quoted(name)} holds a character that cannot be shown: give the files another name")


def _check_url(text: str) -> None:
    match = _FILES_URL.fullmatch(text)
    assert match is not None  # noqa: S101 - or it would not be like files
    scheme = match[1].lower()
    strange = _NO_URL.search(match[2])
    # What follows ? or # may be a signature.
    rest = match[2][: strange.start()] if strange else match[2]
    if scheme in {"http", "https"}:
        _refuse_hub_page(match[2])
    shown = quoted(f"{match[1]}://{rest}")
    if scheme in {"docker", "oci", "dist"}:
        raise InvalidReference(f"{shown} has a scheme: write it as {shortened(rest)}")
    if scheme in {"http", "https"} and not _HTTP_FILES.fullmatch(_split_tag(rest)[0]):
        raise InvalidReference(
            f"{shown} has a scheme (for files, end a layout's URL with / and an archive's with .tar): "
            f"write it as {shortened(_API_ROOT.sub('/', rest))}"
        )
    if scheme in _FOREIGN:
        _refuse_transport(f"{scheme}:{rest}")
    if strange:
        raise InvalidReference(
            f"{shown} is followed by {quoted(strange[0])}, which no URL of files has here: "
            "write scheme://path[:tag][@digest]"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise InvalidReference(f"{shown} names a host: write file:///path, or the path alone")
    if any(segment in {".", ".."} for segment in _split_tag(rest)[0].split("/")):
        raise InvalidReference(
            f"{shown} has a segment '.' or '..', which no URL of files has here: write where it leads"
        )
    if not _split_tag(rest)[0].strip("/"):
        raise InvalidReference(f"{shown} names nothing: write scheme://path")


def _canonical_files(name: str) -> str:
    """Return a path or URL without slashes at its end, unless they mean something.

    One stands after a segment with a colon or an ``@``, in which a tag or a digest could be seen otherwise, and where
    it makes an HTTP URL one of a folder.
    """
    scheme, found, rest = name.partition("://") if not _FILES_PATH.match(name) else ("", "", name)
    scheme = scheme.lower()
    bare = rest.rstrip("/")
    last = bare.rpartition("/")[2]
    if not bare or ":" in last or "@" in last or (bare != rest and scheme in {"http", "https"}):
        bare += "/"
    return f"{scheme}{found}{bare}"


def _check_files(path: str) -> None:
    """Refuse a path or URL that is not in its canonical form."""
    name, tag, digest = _split(path)
    if tag is None and digest is None and _like_files(name) and _canonical_files(name) == path:
        return
    raise InvalidReference(f"{quoted(path)} is no path or URL of files alone, or not in its shortest form: parse it")


def _carries_object(name: str, text: str) -> str:
    message = f"{quoted(text)} looks like a reference: "
    if name and text[len(name)] == ":" and "/" not in name and text[len(name) + 1 :].isdigit():
        message += f"for a registry host and its port write {shortened(text)}/; otherwise "
    message += f"give {quoted(name)} as the locator and {quoted(text[len(name) + 1 :])} as the object"
    return message + (", or end the path with / if that is part of its name" if _like_files(name) else "")


def _check_host(host: str) -> None:
    match = _HOST.fullmatch(host)
    if match is None or len(match[1]) > _MAX_HOST:
        raise InvalidReference(f"{quoted(host)} is not a registry host: write name[:port] or [IPv6 address][:port]")
    if match[3] and not 1 <= int(match[3]) <= _MAX_PORT:
        raise InvalidReference(f"{quoted(host)} has an impossible port: use 1 to {_MAX_PORT}")
    if match[2]:
        from ipaddress import IPv6Address

        try:
            IPv6Address(match[2])
        except ValueError as error:
            raise InvalidReference(f"{quoted(host)} is not an IPv6 address in brackets: correct the address") from error


def _check_path(path: str) -> None:
    if len(path) > _MAX_PATH:
        raise InvalidReference(f"{quoted(path)} is too long: a repository has at most {_MAX_PATH} characters")
    if _PATH.fullmatch(path):
        return
    # Mostly what was typed, before it was put among the official images.
    shown = path.removeprefix(_OFFICIAL)
    if _PATH.fullmatch(path.lower()):
        raise InvalidReference(f"{quoted(shown)} has upper-case letters: write the repository in lower case")
    raise InvalidReference(
        f"{quoted(shown)} is not a repository: write lower-case letters and digits, "
        "between them one of . _ __ or dashes, and / between segments"
    )


def _check_object(tag: str | None, digest: Digest | None) -> None:
    if tag is None and digest is None:
        raise InvalidReference("neither tag nor digest: give one of them")
    if tag is not None and not _TAG.fullmatch(tag):
        raise InvalidReference(
            f"{quoted(tag)} is not a tag: write 1 to 128 letters, digits, _ . or -, not beginning with . or -"
        )


def _object_text(tag: str | None, digest: Digest | None) -> str:
    if digest is None:
        return tag or ""
    return str(digest) if tag is None else f"{tag}@{digest}"
