"""A package that brings a remote of its own: installed, found, used from Python and from the shell, and tested."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from attrs import frozen

import distsdk
from distsdk.remotes.registry import RegistryFetcher
from distsdk.testing.suite import SAMPLE

PLUGIN = Path(__file__).parents[1] / "data" / "plugin"


@frozen
class Environment:
    """A virtual environment with distsdk and the plug-in, and the files that the plug-in reads."""

    python: Path
    files: Path
    sources: Path

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run its Python."""
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DISTSDK", "PYTEST"))
        }
        variables["FILES_ROOT"] = str(self.files)
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            env=variables,
            cwd=self.sources,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Install the plug-in into an environment of its own, on top of this one, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    sources = folder / "sources"
    shutil.copytree(PLUGIN, sources, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own = sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")})
    parent = sysconfig.get_path("purelib")
    Path(own, "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--isolated", "--disable-pip-version-check", "install"]
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([*pip, *options, str(sources)], check=True, stdin=subprocess.DEVNULL, timeout=120)

    files = folder / "files"
    for digest, raw in SAMPLE.objects.items():
        file = files / "some/dir" / digest.algorithm / digest.hex
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
    (files / "some/dir/tags").mkdir()
    for tag, digest in SAMPLE.tags.items():
        (files / "some/dir/tags" / tag).write_text(str(digest))
    return Environment(python, files, sources)


@pytest.mark.slow
def test_it_is_fetched_through_by_connect(environment: Environment) -> None:
    """In an environment that has the plug-in its host is its own, with nothing imported by hand."""
    script = (
        "import sys, distsdk\n"
        "remote = distsdk.connect('files.example/some/dir')\n"
        "sys.stdout.buffer.write(remote.fetch('latest', 'platform:linux/amd64').read())\n"
        "print(type(remote.fetcher).__module__, isinstance(remote, distsdk.Remote), file=sys.stderr)\n"
    )
    run = environment.run("-c", script)
    assert (0, "distsdk_files True\n") == (run.returncode, run.stderr.decode())
    assert SAMPLE.objects[SAMPLE.tags["7-amd64"]] == run.stdout


@pytest.mark.slow
def test_it_is_fetched_through_by_the_command_line(environment: Environment) -> None:
    """A reference, and a locator with an object, write the object's bytes to stdout."""
    layer, raw = SAMPLE.largest()
    expected = {
        ("files.example/some/dir:latest",): SAMPLE.objects[SAMPLE.tags["latest"]],
        ("files.example/some/dir", "latest"): SAMPLE.objects[SAMPLE.tags["latest"]],
        ("files.example/some/dir", "latest", "platform:linux/amd64"): SAMPLE.objects[SAMPLE.tags["7-amd64"]],
        (f"files.example/some/dir@{layer}",): raw,
        ("files.example/some/dir", str(layer), f"size:{len(raw)}"): raw,
    }
    for arguments, output in expected.items():
        run = environment.run("-m", "distsdk", "fetch", *arguments)
        assert (0, b"", output) == (run.returncode, run.stderr, run.stdout)


def test_its_tags_are_listed_by_the_command_line(environment: Environment) -> None:
    """What a plug-in can do besides fetching works as well."""
    run = environment.run("-m", "distsdk", "tags", "files.example/some/dir")
    assert (0, b"", sorted(SAMPLE.tags)) == (run.returncode, run.stderr, sorted(run.stdout.decode().split()))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fetch", "files.example/some/dir:no-such-tag"], 3),
        (["fetch", "files.example/some/dir", "latest", "blue"], 2),
        (["fetch", "files.example/some/dir", "latest", "platform:plan9/mips"], 3),
        (["fetch", "files.example/some/dir", "7-amd64", "size:5"], 5),
        (["catalog", "files.example"], 4),
    ],
)
def test_its_errors_have_their_exit_codes(environment: Environment, arguments: list[str], code: int) -> None:
    """An error of a plug-in's remote, and a power that it lacks, is told like any other: no traceback, no output."""
    run = environment.run("-m", "distsdk", *arguments)
    assert (code, b"") == (run.returncode, run.stdout)
    assert run.stderr
    assert b"Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) <= 4


@pytest.mark.slow
def test_its_own_tests_run_the_suite(environment: Environment, tmp_path: Path) -> None:
    """A test class of a few lines holds the plug-in to the whole contract."""
    report = tmp_path / "report.xml"
    run = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"--junitxml={report}")
    assert 0 == run.returncode, run.stdout.decode()
    suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - pytest wrote it, a moment ago
    assert suite is not None
    assert "0" == suite.get("failures") == suite.get("errors") == suite.get("skipped")
    assert int(suite.get("tests", 0)) > 50


def test_this_environment_does_not_have_it() -> None:
    """Installing it there did nothing here."""
    assert isinstance(distsdk.connect("files.example/some/dir").fetcher, RegistryFetcher)
