"""Attestations: what somebody says of an image, as in-toto statements, and the DSSE envelopes that sign them.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import counted, quoted, shortened
from distsdk.errors import IntegrityError, LimitExceeded, MalformedDocument, UnsupportedDocument
from distsdk.spec.digest import Digest
from distsdk.spec.strict_json import (
    as_object,
    at,
    load_json,
    optional_list,
    optional_object,
    optional_text,
    optional_text_map,
    required_text,
)
from distsdk.trust.keys import PublicKey, from_base64

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from distsdk.trust.keys import Key

#: The media types of a statement and of an envelope.
IN_TOTO = "application/vnd.in-toto+json"
DSSE = "application/vnd.dsse.envelope.v1+json"

#: Subjects of a statement, and signatures of an envelope.
MAX_SUBJECTS = 10_000
MAX_SIGNATURES = 100

_STATEMENT_TYPES = frozenset({"https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1"})


@frozen
class Subject(Displayed):
    """What a statement is about.

    Attributes:
        name: What its author calls it; may be empty.
        digests: Hex digits by algorithm; some algorithms are not those of registries (``gitCommit``).
    """

    name: str = field(repr=quoted)
    digests: Mapping[str, str] = field(hash=False, repr=lambda digests: shortened(str(digests)))


@frozen
class Statement(Displayed):
    """An in-toto statement: something that is said about something, by whoever signed it, if anybody did.

    Attributes:
        predicate_type: What kind of thing is said: a URI, ``https://slsa.dev/provenance/v1``.
        subjects: What it is said of.
        predicate: What is said; not to be changed.
    """

    predicate_type: str
    subjects: tuple[Subject, ...]
    predicate: Mapping[str, object] = field(hash=False, repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the statement that ``raw`` is; whoever reads the bytes from a registry bounds their number.

        Raises:
            MalformedDocument: The bytes are none.
            UnsupportedDocument: A statement of another version than 0.1 and 1.
            LimitExceeded: It has more than `MAX_SUBJECTS`.
        """
        fields = load_json(raw, what="the statement")
        kind = required_text(fields, "_type", "")
        if kind not in _STATEMENT_TYPES:
            message = f"{quoted(kind)} is no in-toto statement of version 0.1 or 1"
            raise UnsupportedDocument(message, media_type=IN_TOTO)
        listed = optional_list(fields, "subject", "")
        if len(listed) > MAX_SUBJECTS:
            raise LimitExceeded(f"{len(listed):,} subjects in one statement", limit=MAX_SUBJECTS)
        subjects = []
        for number, entry in enumerate(listed):
            where = f"subject[{number}]"
            found = as_object(entry, where)
            subjects.append(Subject(optional_text(found, "name", where), optional_text_map(found, "digest", where)))
        return cls(
            required_text(fields, "predicateType", ""), tuple(subjects), optional_object(fields, "predicate", "")
        )

    def is_about(self, digest: str | Digest) -> bool:
        """Whether one of its subjects has this digest."""
        wanted = Digest.parse(digest) if isinstance(digest, str) else digest
        return any(subject.digests.get(wanted.algorithm) == wanted.hex for subject in self.subjects)

    def __repr__(self) -> str:
        return f"<Statement {shortened(self.predicate_type)} about {counted(len(self.subjects), 'subject')}>"


@frozen
class Envelope(Displayed):
    """A DSSE envelope: bytes, what they are, and signatures over both.

    Attributes:
        payload_type: What the bytes are, ``application/vnd.in-toto+json``.
        payload: The bytes.
        signatures: As bytes; nothing is known of whose they are before `verify`.
    """

    payload_type: str
    payload: bytes = field(repr=False)
    signatures: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the envelope that ``raw`` is; whoever reads the bytes from a registry bounds their number.

        Raises:
            MalformedDocument: The bytes are none.
            LimitExceeded: It has more than `MAX_SIGNATURES`.
        """
        return cls.from_fields(load_json(raw, what="the envelope"))

    @classmethod
    def from_fields(cls, fields: Mapping[str, object], *, where: str = "") -> Self:
        """Return the envelope that a parsed document holds; ``where`` is its JSON path, for messages.

        Raises:
            MalformedDocument, LimitExceeded: As `parse`.
        """
        listed = optional_list(fields, "signatures", where)
        if len(listed) > MAX_SIGNATURES:
            raise LimitExceeded(f"{len(listed):,} signatures in one envelope", limit=MAX_SIGNATURES)
        places = [f"{at(where, 'signatures')}[{number}]" for number in range(len(listed))]
        signatures = tuple(
            _decoded(required_text(as_object(entry, place), "sig", place))
            for entry, place in zip(listed, places, strict=True)
        )
        payload = _decoded(required_text(fields, "payload", where))
        return cls(required_text(fields, "payloadType", where), payload, signatures)

    @property
    def signed(self) -> bytes:
        """What the signatures are over: the pre-authentication encoding of type and payload."""
        # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md#signature-definition
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    def verify(self, key: Key | PublicKey) -> PublicKey:
        """Return the key, if one of the signatures was made with it.

        Args:
            key: A public key in PEM form, or the path of a file with it.

        Raises:
            IntegrityError: None was, or there is none.
            InvalidConfig: The key cannot be used.
            MissingExtra: ``cryptography`` is not installed.
        """
        public = key if isinstance(key, PublicKey) else PublicKey.load(key)
        if not any(public.signed(self.signed, signature) for signature in self.signatures):
            message = f"none of {counted(len(self.signatures), 'signature')} of the envelope is by the key {public}"
            raise IntegrityError(message)
        return public

    @property
    def statement(self) -> Statement:
        """The statement in it. Nothing vouches for it before `verify`.

        Raises:
            UnsupportedDocument: Something else is in it.
            DistError: As `Statement.parse`.
        """
        if self.payload_type != IN_TOTO:
            message = f"the envelope holds {quoted(self.payload_type)}, and no in-toto statement"
            raise UnsupportedDocument(message, media_type=self.payload_type)
        return Statement.parse(self.payload)

    def __repr__(self) -> str:
        return f"<Envelope {shortened(self.payload_type)}, {counted(len(self.signatures), 'signature')}>"


def _decoded(text: str) -> bytes:
    """Decode base64 in either alphabet: a DSSE envelope may use both."""
    try:
        return from_base64(text.translate(_STANDARD))
    except ValueError as error:
        raise MalformedDocument("a field of the envelope is not base64; it cannot be used") from error


_STANDARD = str.maketrans("-_", "+/")
