"""How vcrpy records and plays cassettes: with what `distsdk.transport.cassette.record` keeps of an exchange.

Bodies that are long or binary are shared by all cassettes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import vcr.stubs
import yaml
from vcr.persisters.filesystem import FilesystemPersister

from distsdk.transport.cassette.record import (
    keep_body,
    scrub_body,
    scrub_request_headers,
    scrub_response_headers,
    scrub_url,
    with_length,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CASSETTES = Path(__file__).parents[2] / "cassettes"


def scrub_request(request: Any) -> Any:  # noqa: ANN401 - vcrpy has no types
    """Return a request without secrets. That there was a token stays to be seen; the login of a form does not."""
    request.uri = scrub_url(request.uri)
    request.headers = scrub_request_headers(request.headers)
    request.body = None
    return request


def scrub_response(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without secrets. It is given recorded responses too, and leaves those as they are."""
    kept = {
        name: [text for value in values for text in scrub_response_headers({name: value}).values()]
        for name, values in response["headers"].items()
    }
    headers = {name: values for name, values in kept.items() if values}
    body = response["body"]["string"]
    scrubbed = scrub_body(body, status=response["status"]["code"])
    # vcrpy has undone a Content-Encoding; the length on the wire was another then.
    if scrubbed != body or any(name.lower() == "content-encoding" for name in response["headers"]):
        headers = with_length(headers, len(scrubbed))
    return {**response, "headers": headers, "body": {**response["body"], "string": scrubbed}}


class Persister:
    """Writes and reads a cassette; its long and binary bodies are files below a folder beside the cassette's own."""

    @staticmethod
    def load_cassette(path: str, serializer: Any) -> Any:  # noqa: ANN401 - as vcrpy has it
        """Read a cassette with its bodies."""
        requests, responses, *rest = FilesystemPersister.load_cassette(path, serializer)
        for response in responses:
            if "file" in response["body"]:
                response["body"] = {"string": Path(path).parent.joinpath(response["body"]["file"]).read_bytes()}
        return (requests, responses, *rest)

    @staticmethod
    def save_cassette(path: str, cassette: Mapping[str, Any], serializer: Any) -> None:  # noqa: ANN401 - as vcrpy has it
        """Write a cassette, and those of its bodies that are not there yet."""
        bodies = Path(path).parents[1] / "bodies"
        responses = [
            {**response, "body": kept if "file" in kept else response["body"]}
            for response in cassette["responses"]
            for kept in [keep_body(response["body"]["string"], Path(path), bodies)]
        ]
        FilesystemPersister.save_cassette(path, {**cassette, "responses": responses}, serializer)


def _same_header(name: str) -> Any:  # noqa: ANN401 - what vcrpy calls a matcher
    def matches(one: Any, other: Any) -> None:  # noqa: ANN401 - vcrpy's requests
        assert one.headers.get(name) == other.headers.get(name)

    matches.__name__ = name  # what a mismatch is reported under
    return matches


def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:  # noqa: ANN401 - the hook's arguments
    """Teach vcrpy what tells one request to a registry from another, and where bodies go."""
    for name in ("Accept", "Authorization", "Range"):
        vcr.register_matcher(name, _same_header(name))
    vcr.register_persister(Persister)


@pytest.fixture(scope="session")
def vcr_config() -> dict[str, Any]:
    """Return what pytest-recording hands to vcrpy."""
    return {
        "before_record_request": scrub_request,
        "before_record_response": scrub_response,
        "match_on": ["method", "scheme", "host", "port", "path", "query", "Accept", "Authorization", "Range"],
    }


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """Return the folder of a module's cassettes: `test_as_in_2017.py` has `cassettes/as-in-2017`."""
    return str(CASSETTES / request.path.stem.removeprefix("test_").replace("_", "-"))


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    """Return the name of a test's cassette: `test_platform[arm64]` has `platform-arm64.yaml`."""
    return re.sub(r"\W|_", "-", str(request.node.name).removeprefix("test_")).strip("-")


@pytest.fixture(autouse=True)
def _read1_as_urllib3_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let vcrpy's response take the argument that urllib3's `read1` takes. Its bodies are never encoded."""
    read1 = vcr.stubs.VCRHTTPResponse.read1
    monkeypatch.setattr(
        vcr.stubs.VCRHTTPResponse,
        "read1",
        lambda self, amt=-1, decode_content=None: read1(self, amt),
    )


@pytest.fixture
def recorder(vcr_config: dict[str, Any], pytestconfig: pytest.Config) -> Callable[[Path, str], Any]:
    """Return a function that gives what vcrpy does with a cassette in a record mode, set up as for the tests here."""

    def use_cassette(path: Path, mode: str) -> Any:  # noqa: ANN401 - vcrpy has no types
        recorder = vcr.VCR(record_mode=mode)
        pytest_recording_configure(pytestconfig, recorder)
        return recorder.use_cassette(str(path), **vcr_config)

    return use_cassette


@pytest.fixture(scope="session")
def cassettes() -> dict[Path, list[Any]]:
    """Return the interactions of every cassette, as they are on disk."""
    return {path: yaml.safe_load(path.read_text())["interactions"] for path in sorted(CASSETTES.rglob("*.yaml"))}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """After recording, remove the bodies that no cassette names any longer."""
    if session.config.getoption("--record-mode") == "rewrite":
        texts = [path.read_text() for path in CASSETTES.rglob("*.yaml")]
        for body in CASSETTES.glob("bodies/*/*"):
            if not any(body.name in text for text in texts):
                body.unlink()
