"""No secret gets into a cassette, and what is left still plays."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYER = bytes(range(256)) * 20


class _Leaky(BaseHTTPRequestHandler):
    """A registry, token service and blob store that puts a secret wherever there is room for one."""

    answers: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {
        "/token": (
            200,
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            gzip.compress(
                json.dumps(
                    {
                        "token": "planted-token",
                        "access_token": "planted-access",
                        "refresh_token": "planted-refresh",
                        "issued_at": "planted-moment",
                        "expires_in": 300,
                    }
                ).encode()
            ),
        ),
        "/v2/app/blobs/1": (
            307,
            {"Location": "/cdn/1?X-Amz-Credential=planted-key&X-Amz-Signature=planted-signature&verify=planted-verify"},
            b"",
        ),
        "/v2/app/tags/list": (200, {"Link": '</v2/app/tags/list?n=1&last=a&next=planted-page>; rel="next"'}, b"{}"),
        "/cdn/1": (200, {"Content-Type": "application/octet-stream"}, LAYER),
    }

    def do_GET(self) -> None:
        """Answer by the path."""
        status, headers, body = self.answers[self.path.partition("?")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Set-Cookie", "session=planted-cookie")
        self.send_header("X-Request-Id", "planted-request")
        self.send_header("Docker-RateLimit-Source", "planted-address")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def leaky() -> Iterator[ThreadingHTTPServer]:
    """Return a server that `stop` may end early."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Leaky) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def exchange(port: int) -> list[tuple[int, str | None, bytes]]:
    """Ask for everything there is, with secrets in the requests too; return status, Link and body of each answer."""
    root = f"http://planted-user:planted-password@127.0.0.1:{port}"
    headers = {"Authorization": "Bearer planted-bearer", "Cookie": "planted-crumb", "X-Api-Key": "planted-header"}
    urls = ["/token?service=here&account=planted-account", "/v2/app/blobs/1?sig=planted-sig", "/v2/app/tags/list?n=1"]
    answers = []
    with requests.Session() as session:
        session.trust_env = False
        for url in urls:
            answer = session.get(root + url, headers=headers)
            answers.append((answer.status_code, answer.headers.get("Link"), answer.content))
    return answers


def test_planted_secrets(tmp_path: Path, leaky: ThreadingHTTPServer, recorder: Callable[[Path, str], Any]) -> None:
    """Of secrets in URLs, headers, redirects, links and token replies, none is in any file, plain or not."""
    cassette = tmp_path / "app" / "leaky.yaml"
    with recorder(cassette, "new_episodes"):
        recorded = exchange(leaky.server_port)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 2 == len(files), "a cassette, and one body that is long and binary"
    for file in files:
        assert b"planted" not in file.read_bytes()
    assert "?service=here\n" in cassette.read_text()
    assert '</v2/app/tags/list?n=1&last=a>; rel="next"' in cassette.read_text()

    leaky.server_close()
    with recorder(cassette, "none"):
        played = exchange(leaky.server_port)
    assert recorded[1] == played[1] == (200, None, LAYER)
    status, _, reply = played[0]
    redacted = {"token": "REDACTED", "access_token": "REDACTED", "refresh_token": "REDACTED", "expires_in": 300}
    assert (200, redacted) == (status, json.loads(reply))


def test_recording_again_changes_nothing(
    tmp_path: Path, leaky: ThreadingHTTPServer, recorder: Callable[[Path, str], Any]
) -> None:
    """Two recordings of the same answers are the same bytes: dates and request ids are not kept."""
    for name in ("one", "two"):
        with recorder(tmp_path / "app" / f"{name}.yaml", "new_episodes"):
            exchange(leaky.server_port)
    one, two = (tmp_path / "app" / f"{name}.yaml" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
