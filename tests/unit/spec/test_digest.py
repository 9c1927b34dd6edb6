from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import InvalidDigest
from distsdk.spec.digest import Digest

# FIPS 180-4: the examples for "abc", https://csrc.nist.gov/projects/cryptographic-standards-and-guidelines/example-values
ABC = {
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "sha384": "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
    "sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
}
HEX = ABC["sha256"]


@pytest.mark.parametrize("algorithm", ABC)
def test_of_gives_the_published_digests(algorithm: str) -> None:
    """`of` hashes as the standard's own examples say."""
    assert f"{algorithm}:{ABC[algorithm]}" == str(Digest.of(b"abc", algorithm))


@pytest.mark.parametrize("algorithm", ABC)
def test_parse_reads_what_str_writes(algorithm: str) -> None:
    """A digest survives being written and read, and its hasher is of its own algorithm."""
    digest = Digest.parse(f"{algorithm}:{ABC[algorithm]}")
    hasher = digest.hasher()
    hasher.update(b"abc")
    assert (algorithm, ABC[algorithm]) == (digest.algorithm, digest.hex)
    assert digest == Digest.parse(str(digest))
    assert digest.hex == hasher.hexdigest()


def test_of_agrees_with_sha256sum() -> None:
    """Bytes hash as coreutils says."""
    data = bytes(range(256)) * 10
    output = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout.decode()
    assert output.split()[0] == Digest.of(data).hex


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "write it as algorithm:hex"),
        (HEX, "write it as algorithm:hex"),
        (f"md5:{HEX[:32]}", "use sha256, sha384 or sha512"),
        (f"sha1:{HEX[:40]}", "use sha256, sha384 or sha512"),
        (f"blake3:{HEX}", "use sha256, sha384 or sha512"),
        (f"sha256+b64:{HEX}", "use sha256, sha384 or sha512"),
        (f":{HEX}", "use sha256, sha384 or sha512"),
        (f"SHA256:{HEX}", "the algorithm is written in lower case"),
        (f" sha256:{HEX}", "no space around it"),
        (f"sha256:{HEX.upper()}", "hex digits in lower case"),
        (f"sha256:{HEX[:-1]}", "64 hex digits, here are 63"),
        (f"sha256:{HEX}0", "64 hex digits, here are 65"),
        (f"sha512:{HEX}", "128 hex digits, here are 64"),
        ("sha256:", "hex digits"),
        (f"sha256:{HEX}\n", "white space"),
        (f"sha256: {HEX[1:]}", "white space"),
        (f"sha256:{HEX[:-1]}\n", "white space"),
        (f"sha256:{HEX[:-1]}g", "must be hex digits"),
        (f"sha256:{HEX[:-1]}٣", "must be hex digits"),
        (f"sha256:../{HEX[3:]}", "must be hex digits"),
        (f"sha256:{HEX[:-2]}\x00a", "must be hex digits"),
    ],
)
def test_what_is_no_digest_is_refused_with_its_cause(text: str, cause: str) -> None:
    """Nothing but algorithm:hex in lower case and of exact length is a digest; the message says what is wrong."""
    with pytest.raises(InvalidDigest, match=cause):
        Digest.parse(text)


def test_the_constructor_is_as_strict_as_parse() -> None:
    """There is no way to hold a digest that is none."""
    with pytest.raises(InvalidDigest):
        Digest("sha256", "../../etc/passwd")
    with pytest.raises(InvalidDigest, match="use sha256"):
        Digest.of(b"", "md5")


def test_messages_do_not_grow_with_the_text() -> None:
    """A hostile digest is shown cut."""
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse("sha256:" + "z" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.binary())
def test_equal_bytes_have_equal_digests(data: bytes) -> None:
    """A digest is a value: equal, hashable, and of the bytes alone."""
    assert Digest.of(data) == Digest("sha256", hashlib.sha256(data).hexdigest())
    assert {Digest.of(data)} == {Digest.of(bytes(data))}


def test_digests_are_ordered_as_their_texts() -> None:
    """Lists of digests sort stably, for output that can be compared."""
    digests = [Digest.of(bytes([n]), algorithm) for n in range(20) for algorithm in ABC]
    assert sorted(map(str, digests)) == [str(digest) for digest in sorted(digests)]


def test_repr_and_short() -> None:
    """The repr can be pasted into `Digest.parse`; the short form is for people."""
    digest = Digest.parse(f"sha256:{HEX}")
    assert f"Digest('sha256:{HEX}')" == repr(digest)
    assert "ba7816bf8f01" == digest.short
