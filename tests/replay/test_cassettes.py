"""What is committed as cassettes is small, whole, and free of secrets."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

CASSETTES = Path(__file__).parents[2] / "cassettes"

#: Bytes of cassettes and bodies together, and interactions of one cassette: vcrpy compares each request with all.
MAX_BYTES, MAX_INTERACTIONS = 8_000_000, 60

#: What a secret or a path of somebody's machine looks like.
SUSPECT = re.compile(
    r"eyJ|X-Amz|X-Goog|[?&](sig|signature|verify|expires|token)=|Basic |Bearer (?!realm=)|password|/home/|/root/|/tmp/",
    re.IGNORECASE,
)


def test_size(cassettes: dict[Path, list[Any]]) -> None:
    """Cassettes stay small enough to be cloned and to be played by vcrpy."""
    assert cassettes
    assert MAX_BYTES >= sum(path.stat().st_size for path in CASSETTES.rglob("*") if path.is_file())
    assert {} == {path: len(found) for path, found in cassettes.items() if len(found) > MAX_INTERACTIONS}


def test_bodies(cassettes: dict[Path, list[Any]]) -> None:
    """Every body is named by its SHA-256 and by a cassette; every cassette's bodies are there."""
    bodies = {path.resolve() for path in CASSETTES.glob("bodies/*/*")}
    named = {
        (path.parent / interaction["response"]["body"]["file"]).resolve()
        for path, found in cassettes.items()
        for interaction in found
        if "file" in interaction["response"]["body"]
    }
    assert named == bodies
    for body in bodies:
        assert hashlib.sha256(body.read_bytes()).hexdigest() == body.name


def test_digests(cassettes: dict[Path, list[Any]]) -> None:
    """What the registry said of a manifest's digest and length fits the bytes that were kept."""
    for path, found in cassettes.items():
        for interaction in found:
            request, response = interaction["request"], interaction["response"]
            headers = {name.lower(): values[0] for name, values in response["headers"].items()}
            if request["method"] != "GET" or response["status"]["code"] != 200:
                continue
            body = response["body"]
            data = (path.parent / body["file"]).read_bytes() if "file" in body else body["string"].encode()
            assert headers["content-length"] == str(len(data))
            if "docker-content-digest" in headers:
                assert headers["docker-content-digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_secrets(cassettes: dict[Path, list[Any]]) -> None:
    """Nothing in a cassette looks like a token, a signature, a login or a path of the machine it was made on."""
    for path in cassettes:
        assert None is SUSPECT.search(path.read_text()), path
