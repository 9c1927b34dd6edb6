#!/usr/bin/env python3
"""The token service of the live stack: it stands for auth.docker.io, behind nginx.

It answers ``GET /token?service=…&scope=…`` as https://distribution.github.io/distribution/spec/auth/token/ says, and
``POST /token`` with a refresh token as https://distribution.github.io/distribution/spec/auth/oauth/ does. Anonymous
callers may pull ``library/*`` and list the catalog, the one user may also pull ``private/*``, and pull, push and delete
in ``pushed/*``. As on Docker Hub a token is also given to who may do nothing; it then names no access and the registry
refuses it.
Tokens are RS256 JWTs whose header carries the certificate of the signing key.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ADDRESS = ("127.0.0.1", 5002)
ISSUER = "auth.docker.io"
SERVICE = "registry.docker.io"
FORM_LIMIT = 1 << 16  # bytes
# docker-registry accepts a token for this many seconds after its end (registry/auth/token/token.go, Leeway).
# The claim is put that much earlier, so that a token is refused when its `expires_in` is over.
REGISTRY_LEEWAY = 60


def base64url(data: bytes) -> str:
    """Return `data` as unpadded URL-safe base64 (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parse_scopes(values: list[str]) -> list[tuple[str, str, list[str]]]:
    """Return (type, name, actions) of each well-formed scope; a parameter may hold several, parted by spaces."""
    scopes = []
    for scope in " ".join(values).split():
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")  # a name may hold a port
        if kind and name and actions:
            scopes.append((kind, name, actions.split(",")))
    return scopes


class TokenService:
    """Decides what is granted and signs it.

    Args:
        state: the run's directory; holds the signing key, the registry's storage and, in the file `token-seconds`,
            the life of the next token.
        user: the one user name that is known.
        password: its password.
        identity_token: the refresh token that stands for it.
    """

    def __init__(self, state: Path, user: str, password: str, identity_token: str) -> None:
        self._state = state
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._user = user
        self._identity_token = identity_token
        self._key = state / "tls" / "token.key"
        pem = (state / "tls" / "token.pem").read_text()
        self._certificate = "".join(line for line in pem.splitlines() if not line.startswith("-----"))

    def account(self, authorization: str | None) -> str | None:
        """Return the user's name, "" for an anonymous caller, or None for credentials that are not right."""
        if authorization is None:
            return ""
        return self._user if secrets.compare_digest(authorization.encode(), self._basic.encode()) else None

    def owner(self, form: dict[str, list[str]]) -> str | None:
        """Return the user's name for a form with the right refresh token, or None."""
        [given] = form.get("refresh_token", [""])[-1:]
        right = form.get("grant_type") == ["refresh_token"] and bool(form.get("client_id"))
        return self._user if right and secrets.compare_digest(given.encode(), self._identity_token.encode()) else None

    def grant(self, account: str, kind: str, name: str, actions: list[str]) -> list[str]:
        """Return those of `actions` that `account` may do."""
        if kind == "registry" and name == "catalog":
            allowed = {"*"}
        elif kind == "repository" and (name.startswith("library/") or (account and name.startswith("private/"))):
            repository = self._state / "storage/docker/registry/v2/repositories" / name / "_manifests"
            allowed = {"pull"} if ".." not in name and repository.is_dir() else set()
        elif kind == "repository" and account and name.startswith("pushed/"):
            allowed = {"pull", "push", "delete"}
        else:
            allowed = set()
        return [action for action in actions if action in allowed]

    def token(self, account: str, access: list[dict[str, object]], seconds: int) -> str:
        """Return a signed token that the registry accepts for `seconds` from now."""
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._certificate]}
        claims = {
            "iss": ISSUER,
            "sub": account,
            "aud": SERVICE,
            "iat": now,
            "nbf": now,
            "exp": now + seconds - REGISTRY_LEEWAY,
            "jti": secrets.token_urlsafe(12),
            "access": access,
        }
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed.encode(), stdout=subprocess.PIPE, check=True).stdout
        return f"{signed}.{base64url(signature)}"

    def answer(self, target: str, authorization: str | None, body: str | None = None) -> tuple[int, dict[str, object]]:
        """Return status and JSON body for a GET of `target`, or a POST of `body`, and write a line into the log."""
        url = urlsplit(target)
        query = parse_qs(url.query if body is None else body)
        account = self.account(authorization) if body is None else self.owner(query)
        granted: list[dict[str, object]] = []
        status: int
        reply: dict[str, object]
        if url.path != "/token":
            status, reply = 404, {"details": "not found"}
        elif account is None:
            status, reply = 401, {"details": "incorrect login"}
        elif query.get("service") != [SERVICE]:
            status, reply = 400, {"details": f"service must be {SERVICE}"}
        else:
            for kind, name, actions in parse_scopes(query.get("scope", [])):
                if allowed := self.grant(account, kind, name, actions):
                    granted.append({"type": kind, "name": name, "actions": allowed})
            seconds = int((self._state / "token-seconds").read_text())
            token = self.token(account, granted, seconds)
            issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            status, reply = 200, {"access_token": token, "expires_in": seconds, "issued_at": issued}
            if body is None:
                reply["token"] = token
        line = {
            "method": "GET" if body is None else "POST",
            "account": account,
            "scope": query.get("scope", []),
            "granted": granted,
            "status": status,
        }
        with (self._state / "tokens.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        return status, reply


def serve(service: TokenService) -> None:
    """Serve until the process is stopped."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes; together with delayed ACKs that costs 40 ms

        def do_GET(self) -> None:
            self.send(*service.answer(self.path, self.headers.get("Authorization")))

        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), FORM_LIMIT)).decode()
            self.send(*service.answer(self.path, None, body))

        def send(self, status: int, reply: dict[str, object]) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 401:
                self.send_header("WWW-Authenticate", f'Basic realm="{ISSUER}"')
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: nginx logs requests, the service logs grants."""

    ThreadingHTTPServer(ADDRESS, Handler).serve_forever()


if __name__ == "__main__":
    login = (os.environ[name] for name in ("LIVE_USER", "LIVE_PASSWORD", "LIVE_IDENTITY_TOKEN"))
    serve(TokenService(Path(sys.argv[1]), *login))
