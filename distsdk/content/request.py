"""The parsed arguments of `Remote.fetch`."""

from __future__ import annotations

from attrs import frozen

from distsdk._text import quoted, shortened
from distsdk._warnings import warn
from distsdk.errors import InvalidHint
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import DEFAULT_ACCEPT, DOCUMENTS, INDEXES, OCTET_STREAM
from distsdk.spec.platform import Platform
from distsdk.spec.reference import KNOWN_KINDS, Hint, Object


@frozen
class FetchRequest:
    """The parsed arguments of `Fetcher.fetch`, for authors of remotes.

    Attributes:
        object: Tag, digest, or both.
        media_types: From hints, best first, or from a descriptor.
        size: In bytes, from a hint or a descriptor; None if unknown.
        platform: From a hint; None if absent.
    """

    object: Object
    media_types: tuple[str, ...] = ()
    size: int | None = None
    platform: Platform | None = None

    @classmethod
    def read(cls, wanted: str | Object | Digest | Descriptor, hints: tuple[str | Hint, ...] = ()) -> FetchRequest:
        """Parse the arguments of `Fetcher.fetch`. Hints of unknown kinds are ignored with a `DistWarning`.

        Args:
            wanted: As ``object`` of `Fetcher.fetch`.
            hints: As there.

        Raises:
            InvalidReference, InvalidDigest, InvalidHint: An argument is malformed, or hints contradict each other.
        """
        if isinstance(wanted, Descriptor):
            own = (Hint("mediatype", wanted.media_type),) if wanted.media_type != OCTET_STREAM else ()
            hints = (*own, Hint("size", str(wanted.size)), *hints)
            wanted = wanted.digest
        if isinstance(wanted, Digest):
            wanted = Object(tag=None, digest=wanted)
        elif isinstance(wanted, str):
            wanted = Object.parse(wanted)
        read = [Hint.parse(hint) if isinstance(hint, str) else hint for hint in hints]
        values = {kind: [h.value for h in read if h.kind == kind] for kind in KNOWN_KINDS}
        for hint in read:
            if hint.kind not in values:
                _warn_of_kind(hint)
        for kind in ("size", "platform"):
            if len(set(values[kind])) > 1:
                message = f"{kind}: hints contradict each other; pass one"
                raise InvalidHint(message)
        return cls(
            object=wanted,
            media_types=tuple(dict.fromkeys(values["mediatype"])),
            size=int(values["size"][0]) if values["size"] else None,
            platform=Platform.parse(values["platform"][0]) if values["platform"] else None,
        )

    @property
    def is_document(self) -> bool:
        """Whether the object is a document, fetched whole: it has no digest, a platform or a document's media type."""
        return self.object.digest is None or self.platform is not None or not DOCUMENTS.isdisjoint(self.media_types)

    @property
    def accept(self) -> tuple[str, ...]:
        """The media types for the ``Accept`` header, best first: those hinted; with a platform, indexes as well."""
        if not self.media_types:
            return DEFAULT_ACCEPT
        indexes = tuple(t for t in DEFAULT_ACCEPT if t in INDEXES) if self.platform is not None else ()
        return tuple(dict.fromkeys((*self.media_types, *indexes)))

    @property
    def identifier(self) -> str:
        """The digest, or else the tag, for the URL."""
        return str(self.object.digest or self.object.tag)


def _warn_of_kind(hint: Hint) -> None:
    """Warn of a hint that no remote uses."""
    from difflib import get_close_matches

    near = get_close_matches(hint.kind.lower(), KNOWN_KINDS, 1)
    advice = f"write {near[0]}:{shortened(hint.value)}" if near else f"known kinds are {', '.join(KNOWN_KINDS)}"
    message = f"hint {quoted(str(hint))} ignored: unknown kind {quoted(hint.kind)}; {advice}"
    warn(message)
