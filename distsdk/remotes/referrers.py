"""Referrers: what a document's ``subject`` makes of it, and the tag that lists them where a registry has no API for it.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Literal, Protocol

from attrs import field, frozen

from distsdk.errors import LimitExceeded, NotFound, RegistryError
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.documents import Index, Manifest
from distsdk.spec.media_types import DOCUMENTS, INDEXES, OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distsdk.spec.digest import Digest

_log = logging.getLogger(__name__)

#: Times that a list is read, changed and written before others are let have their way.
MAX_ROUNDS = 50

#: Seconds for which a list is looked at after it was written: ten times as long as reading and writing it took, so that
#: a writer who read it before and writes it after us is found out, but at least and at most these.
SETTLE, LONGEST_SETTLE = 0.5, 5.0


#: Codes of a registry that misses what an index lists.
_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"})


def parse_document(raw: bytes, media_type: str | None) -> Manifest | Index:
    """Return a manifest or an index; errors are those of `Manifest.parse`."""
    return Index.parse(raw, media_type) if media_type in INDEXES else Manifest.parse(raw, media_type)


def as_referrer(document: Manifest | Index, digest: Digest) -> Descriptor:
    """Return how a document is listed among the referrers of its subject.

    https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers

    Args:
        document: The manifest or index.
        digest: Its digest.
    """
    kind = document.artifact_type or (document.config.media_type if isinstance(document, Manifest) else None)
    return Descriptor(document.media_type, digest, document.size, annotations=document.annotations, artifact_type=kind)


def chosen(entries: Iterable[Descriptor], subject: Digest, artifact_type: str | None) -> Iterator[Descriptor]:
    """Yield the entries of a list that can be referrers, and are of a type.

    What is no manifest and no index has no subject, and nothing is about itself: whoever listed such, it is left out.
    """
    for entry in entries:
        if entry.media_type not in DOCUMENTS or entry.digest == subject:
            _log.info("%s is listed as a referrer of %s, and cannot be one: left out", entry.digest, subject)
        elif artifact_type is None or entry.artifact_type == artifact_type:
            yield entry


def fallback_tag(subject: Digest) -> str:
    """Return the tag whose index lists the referrers of a document."""
    return f"{subject.algorithm}-{subject.hex[:64]}"


class ReferrersTag(Protocol):
    """Where the list of a tag is kept."""

    def read(self) -> tuple[bytes, str] | None:
        """Return an index as it is now, and what names this state of it (``ETag``); None if there is none."""
        ...

    def write(self, raw: bytes, before: str | None) -> bool:
        """Put an index in the place of the one before; return False if that is known to be another by now.

        Args:
            raw: The new one.
            before: What named the one that was read, empty where nothing did; None if there was none.
        """
        ...

    def lacks(self, entry: Descriptor) -> bool:
        """Whether what an index lists is not there."""
        ...


@frozen
class Listing:
    """The list of referrers behind a fallback tag, as one of several writers changes it.

    Registries do not change a tag only if it is what one thinks it is (``If-Match`` is sent, and heeded by few). So a
    list is read again for some time after it was written, and written again, with all that it has by then, where the
    change got lost. Writers that do so lose no entry of each other, provided that none of them takes longer from
    reading to writing than another one waits: see `SETTLE`. Threads of one process wait for each other besides.

    Args:
        place: Where it is.
        key: What tells it from all others in this process.
        limit: Bytes that it may have.
    """

    place: ReferrersTag
    key: tuple[str, ...]
    limit: int
    _dangling: set[Digest] = field(factory=set, init=False)

    def add(self, referrer: Descriptor) -> None:
        """Let a referrer be listed.

        Raises:
            LimitExceeded: The list would be too long to be read again.
            RegistryError: Others write without end.
            DistError: What is there is no list, or the registry did not answer well.
        """
        self._change(lambda there: [*there, referrer.to_fields()], lambda digests: str(referrer.digest) in digests)

    def remove(self, digest: Digest) -> None:
        """Let something be listed no more; errors as `add`."""

        def without(there: list[object]) -> list[object]:
            return [entry for entry in there if not (isinstance(entry, dict) and entry.get("digest") == str(digest))]

        self._change(without, lambda digests: str(digest) not in digests)

    def _change(self, change: Callable[[list[object]], list[object]], done: Callable[[set[str]], bool]) -> None:
        for _ in range(MAX_ROUNDS):
            with _lock(self.key):
                start = time.monotonic()
                outcome = self._once(change, done)
                took = time.monotonic() - start
            if outcome == "outrun":
                continue
            if outcome == "done before":
                return
            settle = min(max(SETTLE, 10 * took), LONGEST_SETTLE)
            end = time.monotonic() + settle
            while done(_digests(self._fields()[0])):
                left = end - time.monotonic()
                if left <= 0:
                    return
                time.sleep(min(left, settle / 3))
        message = f"{'/'.join(self.key)}: others change the list of referrers without end"
        raise RegistryError(message, status=412)

    def _once(
        self, change: Callable[[list[object]], list[object]], done: Callable[[set[str]], bool]
    ) -> Literal["written", "done before", "outrun"]:
        """Read, change and write."""
        fields, before = self._fields()
        start = time.monotonic()
        if done(_digests(fields)):
            return "done before"
        manifests = fields.get("manifests") or []
        assert isinstance(manifests, list)  # noqa: S101 - or it would be no index
        manifests = change(manifests)
        if self._dangling:
            manifests = [entry for entry in manifests if Descriptor.from_fields(entry).digest not in self._dangling]
        raw = json.dumps({**fields, "manifests": manifests}, separators=(",", ":")).encode()
        if len(raw) > self.limit:
            message = f"{'/'.join(self.key)}: a list of referrers longer than the limit of {self.limit} bytes"
            raise LimitExceeded(message, limit=self.limit)
        if time.monotonic() - start > SETTLE / 2:
            return "outrun"  # as good as: nobody looks for longer than that for sure
        try:
            return "written" if self.place.write(raw, before) else "outrun"
        except (NotFound, RegistryError) as error:
            # Registries take no index of what is not there, and who deletes a referrer may have left it in the list.
            if _MISSING.isdisjoint(error.codes):
                raise
            gone = {e.digest for e in Index.parse(raw, OCI_INDEX).manifests if self.place.lacks(e)} - self._dangling
            if not gone:
                raise
            self._dangling.update(gone)
            return "outrun"

    def _fields(self) -> tuple[dict[str, object], str | None]:
        found = self.place.read()
        if found is None:
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, None
        raw, etag = found
        return dict(Index.parse(raw, OCI_INDEX).fields), etag


def _digests(fields: dict[str, object]) -> set[str]:
    manifests = fields.get("manifests")
    entries = manifests if isinstance(manifests, list) else []
    return {str(entry.get("digest")) for entry in entries if isinstance(entry, dict)}


#: Locks for the lists that threads of a process change, by process: a child has no use for its parent's.
_locks: dict[int, tuple[threading.Lock, ...]] = {}


def _lock(key: tuple[str, ...]) -> threading.Lock:
    """Return the lock for a list, which it may share with others."""
    own = _locks.setdefault(os.getpid(), tuple(threading.Lock() for _ in range(64)))
    return own[hash(key) % len(own)]
