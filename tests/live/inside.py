"""What the tests inside the stack have in common: distsdk and other tools, run and looked at, and what nginx logged."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STATE = Path(os.environ["LIVE_STATE"])
LOGIN = f"{os.environ['LIVE_USER']}:{os.environ['LIVE_PASSWORD']}"
DISTSDK = Path(sys.executable).with_name("distsdk")
REDIS = "docker.io/library/redis"
REGISTRY, CDN, AUTH = "registry-1.docker.io", "production.cloudflare.docker.com", "auth.docker.io"


def run(*arguments: str | Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run distsdk, with variables; an empty one is taken away. What it says on standard error is left to the test."""
    env = {name: value for name, value in (os.environ | variables).items() if value}
    return subprocess.run([DISTSDK, *arguments], input=stdin.encode(), capture_output=True, env=env, check=False)


def fetched(*arguments: str | Path, **variables: str) -> bytes:
    """Return what a fetch that succeeds writes; it has nothing to say on standard error."""
    done = run("fetch", *arguments, **variables)
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout


def refused(*arguments: str | Path, **variables: str) -> tuple[int, str]:
    """Return the exit code and the one line that a command which fails says; it writes no data."""
    done = run(*arguments, **variables)
    assert b"" == done.stdout
    [line] = done.stderr.decode().splitlines()
    return done.returncode, line


def shell(line: str, **variables: str) -> bytes:
    """Run a line as a person types it, with distsdk on PATH; no part of a pipe may fail."""
    env = os.environ | {"PATH": f"{DISTSDK.parent}:{os.environ['PATH']}"} | variables
    return subprocess.run(["bash", "-o", "pipefail", "-ec", line], stdout=subprocess.PIPE, env=env, check=True).stdout


def skopeo(*arguments: str | Path) -> bytes:
    """Return what skopeo writes."""
    return subprocess.run(["skopeo", *arguments], stdout=subprocess.PIPE, check=True).stdout


def raw(name: str, repository: str = REDIS, *options: str | Path) -> bytes:
    """Return a manifest or index of a repository, as skopeo gets it by its tag or digest."""
    separator = "@" if ":" in name else ":"
    return skopeo("inspect", "--raw", "--tls-verify=false", *options, f"docker://{repository}{separator}{name}")


def document(name: str) -> dict[str, Any]:
    """Return a manifest or index of library/redis as skopeo gets it, parsed."""
    parsed: dict[str, Any] = json.loads(raw(name))
    return parsed


def sha256sum(data: bytes) -> str:
    """Return the digest of bytes, by coreutils."""
    done = subprocess.run(["sha256sum"], input=data, stdout=subprocess.PIPE, check=True)
    return f"sha256:{done.stdout.split()[0].decode()}"


def blob_file(digest: str) -> Path:
    """Return where the run's storage keeps a blob."""
    algorithm, _, text = digest.partition(":")
    return STATE / "storage/docker/registry/v2/blobs" / algorithm / text[:2] / text / "data"


def push_random(size: int) -> str:
    """Push `size` bytes, the same ones each time, as a blob of library/redis, and return its digest.

    In the two requests of the distribution-spec, "Pushing a blob monolithically".
    """
    data = random.Random(size).randbytes(size)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    start = urllib.request.Request("http://localhost:5000/v2/library/redis/blobs/uploads/", method="POST")
    with urllib.request.urlopen(start) as answer:
        location = urlsplit(answer.headers["Location"])
    url = f"http://localhost:5000{location.path}?{location.query}&digest={digest}"
    headers = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT")):
        return digest


class Lines:
    """The lines that were added to a log of the stack since this was made.

    Args:
        name: The log: `access.jsonl`, `tokens.jsonl` or `connections.jsonl`.
    """

    def __init__(self, name: str) -> None:
        self._file = STATE / name
        time.sleep(0.2)  # lines are written a moment after the answer: let what was asked before be written
        self._start = self._file.stat().st_size

    def read(self) -> list[dict[str, Any]]:
        """Return the lines that are written by now."""
        with self._file.open("rb") as file:
            file.seek(self._start)
            return [json.loads(line) for line in file if line.endswith(b"\n")]


class Log:
    """What distsdk has asked nginx for since this was made."""

    def __init__(self) -> None:
        self._lines = Lines("access.jsonl")

    def entries(self, host: str, kind: str = "") -> list[dict[str, Any]]:
        """Return the requests to a host, as they are written by now, whose path holds `kind`."""
        return [
            line
            for line in self._lines.read()
            if line["host"] == host and kind in line["uri"] and line["user_agent"].startswith("distsdk/")
        ]

    def wait_for(self, count: int, host: str, kind: str = "") -> list[dict[str, Any]]:
        """Return the requests to a host once there are `count`."""
        deadline = time.monotonic() + 5
        while len(found := self.entries(host, kind)) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert count == len(found)
        return found
