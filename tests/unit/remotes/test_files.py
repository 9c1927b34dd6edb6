"""Files behind URLs: what fsspec raises, servers without ranges, and what is not installed."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import traceback
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import distsdk
from distsdk.errors import Denied, DistError, InvalidConfig, InvalidReference, MissingExtra, NotFound, Unreachable
from distsdk.layout.files import LocalFiles, read_document
from distsdk.remotes.files import RemoteFiles, files_at
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.layout.files import Files


@contextlib.contextmanager
def served(handler: object) -> Iterator[str]:
    """Serve on loopback, and yield the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:  # type: ignore[arg-type] # a class, or as good as one
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read(files: Files, name: str, offset: int, end: int | None) -> bytes:
    """Read a range, in small pieces."""
    with contextlib.closing(files.open(name, offset, end)) as stream:
        return b"".join(iter(lambda: stream.read(1000), b""))


def test_a_place_is_a_path_or_a_url() -> None:
    """The files of this machine take no detour through fsspec, also by their URL."""
    for place in ("./x", "/x", "~/x", "./x://y", "/srv/s3://bucket"):
        assert LocalFiles(place) == files_at(place)
    assert LocalFiles("/x") == files_at("file:///x") == files_at("/x/")
    assert LocalFiles("/") == files_at("/")
    assert RemoteFiles("s3://x/a:b") == files_at("s3://x/a:b/")
    for place in ("s3://x", "memory://x", "https://x/y/"):
        assert RemoteFiles(place) == files_at(place)


def test_streams_of_a_file_in_memory_have_their_own_positions() -> None:
    """Two streams of one file are read in turn, and each gives the whole file."""
    raw = bytes(range(256)) * 12_000
    fsspec.filesystem("memory").pipe("/positions/file", raw)
    files = RemoteFiles("memory://positions")
    with contextlib.closing(files.open("file", 0, None)) as one, contextlib.closing(files.open("file", 0, None)) as two:
        pieces = [(one.read(1 << 20), two.read(1 << 20)) for _ in range(4)]
    assert [raw, raw] == [b"".join(read) for read in zip(*pieces, strict=True)]


@pytest.mark.parametrize("offset", [0, 1, 5_000, 3_000_000])
@pytest.mark.parametrize("end", [None, 5_001, 3_000_000, 10_000_000])
def test_any_range_of_a_file_is_read(tmp_path: Path, offset: int, end: int | None) -> None:
    """Locally, by fsspec, and from a server that knows no ranges, as Python's own; the size is known before."""
    raw = bytes(range(256)) * 12_000
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(raw)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, source: object, outputfile: object) -> None:
            with contextlib.suppress(OSError):  # nobody reads on
                super().copyfile(source, outputfile)  # type: ignore[arg-type] # typeshed's is generic

    with served(partial(Quiet, directory=str(tmp_path))) as url:
        for files in (
            LocalFiles(str(tmp_path / "folder")),
            RemoteFiles(f"local://{tmp_path}/folder"),
            RemoteFiles(f"{url}/folder/"),
        ):
            got = read(files, "file", offset, end)
            assert (len(raw[offset:end]), Digest.of(raw[offset:end])) == (len(got), Digest.of(got)), files
            assert len(raw) == files.size("file")


@pytest.mark.parametrize(
    ("status", "error", "cause"),
    [
        (404, NotFound, "no image layout, and no archive"),
        (410, NotFound, "no image layout, and no archive"),
        (401, Denied, "may not be read"),
        (403, Denied, "may not be read"),
        (429, Unreachable, "cannot be read: ClientResponseError: 429"),
        (500, Unreachable, "cannot be read: ClientResponseError: 500"),
    ],
)
def test_a_web_server_that_refuses_is_told_as_a_registry_would_be(
    status: int, error: type[DistError], cause: str
) -> None:
    """Fsspec makes "not found" of all of them."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with served(Refusing) as url, pytest.raises(error, match=cause) as caught:
        distsdk.connect(f"{url}/layout/").fetch("latest")
    assert url in str(caught.value)


def test_a_web_server_that_is_none_is_unreachable() -> None:
    """Nobody listens on a port that was just closed; nothing is known then of what is there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port}/layout/oci-layout cannot be read") as caught:
        distsdk.connect(f"http://127.0.0.1:{port}/layout/").fetch("latest")
    assert isinstance(caught.value, ConnectionError)


class Failing(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A file system whose library says what it likes."""

    protocol = "failing"
    error: Exception = OSError("nothing yet")

    def _open(self, *_: object, **__: object) -> None:
        raise self.error

    def info(self, *_: object, **__: object) -> None:
        """Fail as well."""
        raise self.error


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (FileNotFoundError(2, "No such file", "x"), NotFound),
        (NotADirectoryError(20, "Not a directory"), NotFound),
        (PermissionError(13, "Access Denied"), Denied),
        (TimeoutError("slow"), Unreachable),
        (ConnectionResetError(104, "reset"), Unreachable),
        (
            RuntimeError("at https://user:hunter2@bucket.example/x?X-Amz-Signature=hunter2 \x1b[2J" + "x" * 5000),
            Unreachable,
        ),
        (ValueError("of a library"), Unreachable),
    ],
)
def test_the_errors_of_libraries_are_translated(raised: Exception, error: type[DistError]) -> None:
    """Whatever fsspec or what is below it raises, the error is one of ours, short, and shows no signature."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.error = raised
    files = RemoteFiles("failing://x")
    for look in (lambda: read_document(files, "index.json", 100), lambda: files.size("a"), files.identity):
        with pytest.raises(error, match="failing://x") as caught:
            look()
        assert caught.value.__cause__ is raised
        assert "hunter2" not in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600


def test_an_error_in_the_middle_is_translated() -> None:
    """A stream that breaks off is an error of ours, too."""
    fsspec.filesystem("memory").pipe("/breaks/file", b"x" * 100)
    stream = RemoteFiles("memory://breaks").open("file", 0, None)

    def break_off(_: int) -> bytes:
        raise OSError(5, "Input/output error")

    stream._file.read = break_off  # type: ignore[attr-defined] # fsspec's file
    with pytest.raises(Unreachable, match="memory://breaks/file cannot be read: OSError"):
        stream.read(10)
    stream.close()
    fsspec.filesystem("memory").rm("/breaks", recursive=True)


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    """The message names it."""
    with pytest.raises(InvalidReference, match="'nosuchscheme' is no scheme that fsspec knows"):
        distsdk.connect("nosuchscheme://bucket/x").fetch("latest")


def test_a_package_that_a_scheme_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fsspec knows which; it is not one of ours."""
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(InvalidConfig, match=r"sftp:// cannot be read here: .*paramiko"):
        distsdk.connect("sftp://host/x").fetch("latest")


def test_fsspec_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the message has the line that installs it; paths and ``file://`` do without."""
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingExtra, match=r"reading s3:// URLs needs .*: pip install 'distsdk\[fsspec\]'"):
        distsdk.connect("s3://bucket/x").fetch("latest")
    for place in ("/nowhere/x", "file:///nowhere/x"):
        with pytest.raises(NotFound):
            distsdk.connect(place).fetch("latest")


@pytest.mark.slow
def test_a_path_needs_nothing_heavy(tmp_path: Path) -> None:
    """To read a layout on this machine takes no HTTP library and no fsspec."""
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    program = (
        "import sys, distsdk\n"
        f"assert [] == list(distsdk.connect({str(tmp_path)!r}).tags())\n"
        "print(*{'requests', 'urllib3', 'fsspec', 'aiohttp', 'pandas'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "" == done.stdout.strip()


@pytest.mark.parametrize("place", ["s3://user:hunter2@bucket/x", "https://user:hunter2@files.example/x.tar"])
def test_a_password_in_a_url_is_refused(place: str) -> None:
    """It belongs into what the scheme's own package reads, and is not shown."""
    with pytest.raises(InvalidReference) as caught:
        distsdk.connect(place)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
