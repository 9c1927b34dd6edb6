from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

USER = """
import http.client

def ask(registry, path):
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().read()

def test_it_serves(distsdk_registry):
    assert b'{"repositories":[]}' == ask(distsdk_registry, "/v2/_catalog")
    distsdk_registry.add_blob("x", b"data")

def test_it_is_another_one_for_each_test(distsdk_registry):
    assert b'{"repositories":[]}' == ask(distsdk_registry, "/v2/_catalog")
"""


@pytest.mark.slow
def test_users_have_a_registry(tmp_path: Path) -> None:
    """A test that names the fixture gets a registry that serves and is empty."""
    module = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["pytest11"]
    assert {"distsdk": "distsdk.testing.fixtures"} == module
    (tmp_path / "test_user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", module["distsdk"], "-p", "no:cacheprovider", "test_user.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert 0 == done.returncode, done.stdout
    assert "2 passed" in done.stdout


def test_loading_the_fixture_loads_nothing_else() -> None:
    """Runs of pytest that do not use it pay for no module of distsdk but its own, nor for what those import."""
    script = (
        "import sys, pytest; before = set(sys.modules); import distsdk.testing.fixtures;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ["distsdk", "distsdk.testing", "distsdk.testing.fixtures"] == done.stdout.split()


def test_names_are_loaded_on_first_use() -> None:
    """Every public name can be had and is shown beforehand; others fail as in any module."""
    from distsdk import testing

    assert sorted(set(testing.__all__)) == testing.__all__ == dir(testing)
    assert [] == [name for name in testing.__all__ if not hasattr(testing, name)]
    assert not hasattr(testing, "no_such_name")
