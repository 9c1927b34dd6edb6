"""JupyterLab on this machine, shown in Debian's Chromium, without network.

Screenshots are kept in ``.screenshots`` of the repository, or where ``DISTSDK_SCREENSHOTS`` says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(os.environ.get("DISTSDK_SCREENSHOTS", ROOT / ".screenshots"))

#: Milliseconds that anything may take on a machine that does other things too.
PATIENCE = 90_000


class Lab:
    """A running JupyterLab, and the page that shows it.

    Attributes:
        page: Of the browser.
        folder: Where its notebooks lie.
        log: What the server says.
    """

    def __init__(self, page: Page, url: str, folder: Path, log: Path) -> None:
        self.page = page
        self.url = url
        self.folder = folder
        self.log = log

    def write(self, name: str, *cells: str) -> None:
        """Write a notebook of code cells."""
        notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call] # it is not annotated
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],  # type: ignore[no-untyped-call] # nor this
            metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        )
        (self.folder / name).write_text(nbformat.writes(notebook))  # type: ignore[no-untyped-call] # nor this

    def open(self, name: str) -> None:
        """Open a notebook, alone, with a kernel that is ready."""
        self.page.goto(f"{self.url}/lab/tree/{name}?reset")
        self.page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
        # Before this, to run opens a dialog that asks for a kernel.
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")

    def run(self) -> None:
        """Run all cells to their end."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        prompts = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
        pending = prompts.filter(has_not_text=re.compile(r"^\[\d+\]:$"))
        expect(pending).to_have_count(0)
        assert prompts.count()
        assert (
            [] == self.page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
        )

    @property
    def output(self) -> Locator:
        """What the cells show."""
        return self.page.locator(".jp-Notebook .jp-Cell-outputArea")

    def theme(self, name: str) -> None:
        """Change to a theme: ``JupyterLab Dark``."""
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        light = "false" if "Dark" in name else "true"
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", light)
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)

    def shoot(self, name: str, part: Locator | None = None) -> Path:
        """Keep a picture of the page, or of a part of it."""
        path = SCREENSHOTS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (part or self.page).screenshot(path=path)
        return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """Start JupyterLab with settings of its own; return its URL, the folder of its notebooks, and its log."""
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    config = home / "config"
    (config / "labconfig").mkdir(parents=True)
    disabled = {"@jupyterlab/apputils-extension:announcements": True}  # it would ask the network for news
    (config / "labconfig" / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))
    own = {
        name: str(home / name.lower())
        for name in ("JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    }
    runtime = home / "runtime"
    own |= {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_RUNTIME_DIR": str(runtime), "HOME": str(home)}
    # What is learnt of layers is kept for one run only.
    own |= {"XDG_CACHE_HOME": str(home / "cache"), "DISTSDK_REPLAY": str(ROOT / "cassettes")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"]
    command += [
        "--ServerApp.disable_check_xsrf=True",
        f"--ServerApp.root_dir={folder}",
    ]
    log = home / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=home, env={**os.environ, **own, "PATH": path}, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield _url(process, runtime, log), folder, log
    finally:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)  # the first one asks whether it is meant
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """Return where a server listens, once it does."""
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until and process.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            try:
                return str(json.loads(file.read_text())["url"]).rstrip("/")
            except ValueError:
                continue  # half written
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def new_page() -> Iterator[Callable[[], Page]]:
    """Return what opens a page of a browser that forgets everything between two of them."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "Chromium is not installed: apt-get install chromium"
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    arguments += ["--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield lambda: browser.new_page(viewport={"width": 1200, "height": 1000})
        browser.close()


@pytest.fixture
def lab(server: tuple[str, Path, Path], new_page: Callable[[], Page]) -> Iterator[Lab]:
    """Return JupyterLab in a page of its own; nothing but JupyterLab was asked for anything in the end."""
    page = new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    url = server[0]
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: (
            elsewhere.append(request.url)
            if not request.url.startswith((url, url.replace("http", "ws", 1), "data:", "blob:"))
            else None
        ),
    )
    yield Lab(page, *server)
    page.close()
    for session in _ask(f"{url}/api/sessions"):  # their kernels would stay
        _ask(f"{url}/api/sessions/{session['id']}", "DELETE")
    assert [] == elsewhere


def _ask(url: str, method: str = "GET") -> Any:  # noqa: ANN401 - as json.loads
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return json.loads(answer.read() or "null")
