"""The test suite on every Python that is installed, and on the oldest dependencies that pyproject.toml admits."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PARALLEL = ("-n", "logical", "--dist", "worksteal")  # as in the Makefile
TEST = nox.project.dependency_groups(PYPROJECT, "test")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the suite with the dependencies pinned in constraints.txt."""
    session.install("--constraint", "constraints.txt", "--editable", ".[replay]", *TEST)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Run the suite with the oldest versions of what distsdk depends on directly."""
    session.install("--resolution", "lowest-direct", "--editable", ".[replay]", *TEST)
    session.run("pytest", *PARALLEL, *session.posargs)
