"""What people see: the notebooks and the explorer in JupyterLab, with keys and in the dark."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Lab

GENUINE = "a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"

#: Text that would do something where it is taken for markup.
HOSTILE = "<img src=x onerror=window.broken=1><script>window.broken=1</script>"

#: Elements with text of their own, and the contrast between it and what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """\
(parts) => parts.flatMap(part => [part, ...part.querySelectorAll("*")]).flatMap(element => {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) return [];
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const painted = colors => {
        canvas.globalAlpha = 1;
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const behind = ["white"];
    const ancestors = [];
    for (let at = element; at; at = at.parentElement) ancestors.unshift(at);
    for (const at of ancestors) behind.push(getComputedStyle(at).backgroundColor);
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const back = luminance(painted(behind));
    const front = luminance(painted([...behind, getComputedStyle(element).color]));
    const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    return [[element.tagName, element.textContent.trim().slice(0, 40), ratio]];
})
"""


def illegible(page: Page, selector: str) -> list[list[object]]:
    """Return the texts whose contrast is less than people with weak eyes need; there have to be texts."""
    measured: list[list[object]] = page.locator(selector).evaluate_all(CONTRASTS)
    assert len(measured) > 3
    return [each for each in measured if not isinstance(each[2], float | int) or each[2] < 4.5]


NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("0[12]*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_in_the_browser(lab: Lab, name: str) -> None:
    """It runs to its end, shows in the browser what is committed as text, and reads well in both themes."""
    lab.open(name)
    lab.run()
    shown = " ".join(lab.output.all_text_contents())  # what is folded, too
    committed = json.loads((ROOT / "notebooks" / name).read_text())
    digests = {
        digest
        for cell in committed["cells"]
        for output in cell.get("outputs", [])
        for digest in re.findall(r"\b[0-9a-f]{64}\b", "".join(output.get("data", {}).get("text/plain", "")))
    }
    assert digests
    assert (GENUINE in digests) == name.startswith("01-")
    assert [] == [digest for digest in sorted(digests) if digest not in shown]
    page = lab.page
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        lab.theme(theme)
        assert [] == illegible(page, ".jp-Notebook .distsdk")
        blocks = page.locator(".jp-Notebook .distsdk:visible").or_(
            page.locator(".jp-Notebook .distsdk-explorer:visible")
        )
        for number, block in enumerate(blocks.all()):
            block.scroll_into_view_if_needed()
            lab.shoot(f"{name.removesuffix('.ipynb')}-{theme.split()[1].lower()}-{number}", block)


#: An image whose every string would do something, in a registry within the kernel; its names are `image` and `remote`.
HOSTILE_IMAGE = f"""\
import io, tarfile
import distsdk
from distsdk.testing import Registry

hostile = {HOSTILE!r}
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    for name in ("etc/" + hostile.replace("/", "|"), "etc/plain.txt", "usr/" + "x" * 300):
        member = tarfile.TarInfo(name)
        member.size = len(hostile)
        tar.addfile(member, io.BytesIO(hostile.encode()))
registry = Registry().__enter__()
settings = {{
    "author": hostile,
    "created": "2024-01-02T03:04:05Z",
    "config": {{"Env": ["HOSTILE=" + hostile], "Cmd": [hostile], "Labels": {{hostile: hostile}}}},
    "history": [{{"created_by": hostile, "author": hostile, "comment": hostile}}],
}}
registry.add_image("hostile/image", "v1", layers=[archive.getvalue()], config=settings)
registry.add_artifact("hostile/file", "v1", files={{hostile: b"x"}}, artifact_type="application/x-test")
image = distsdk.image(registry.locator("hostile/image") + ":v1", platform="linux/amd64")
remote = distsdk.connect(registry.locator("hostile/image"))
"""


def assert_inert(page: Page) -> None:
    """Nothing of the hostile strings became an element, or ran."""
    assert page.evaluate("window.broken === undefined")
    assert 0 == page.locator(".jp-Notebook .jp-OutputArea img[src='x']").count()
    assert 0 == page.locator(".jp-Notebook .jp-OutputArea script").count()


def test_strings_of_a_registry_stay_inert(lab: Lab) -> None:
    """Markup in names of files, history, labels, titles and errors is shown as text, by reprs and by the explorer."""
    shown = ["image", "image.config", "image.manifest", "image.layers[0]", 'image.ls("/etc")', "remote.tags()"]
    shown += [
        'distsdk.connect(registry.locator("hostile/file")).manifest("v1")',
        "distsdk.connect(registry.locator(\"hostile/image\")).fetch('v1')",
        "image.explore()",
    ]
    lab.write("hostile.ipynb", f'import os\nos.environ.pop("DISTSDK_REPLAY")\n{HOSTILE_IMAGE}', *shown)
    lab.open("hostile.ipynb")
    lab.run()
    page = lab.page
    page.locator(".jp-Notebook details").evaluate_all("all => all.forEach(details => { details.open = true; })")
    assert_inert(page)
    expect(page.locator(".jp-Notebook .distsdk").filter(has_text="<img src=x onerror")).not_to_have_count(0)
    lab.theme("JupyterLab Dark")
    assert [] == illegible(page, ".jp-Notebook .distsdk")
    lab.shoot("hostile-dark")


EXPLORED = f"""\
import os
os.environ.pop("DISTSDK_REPLAY")
import base64, io, tarfile
import distsdk
from distsdk.testing import Registry

picture = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAE0lEQVR4nGP8z4APMOGVHbHSAEEsAROxCnMTAAAAAElFTkSuQmCC"
)

def archive(files):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()

passwd = b"root:x:0:0\\n"
hostile = {HOSTILE!r}
low = {{
    "etc/os-release": b"NAME=Test\\nVERSION=1234\\n",
    "etc/passwd": passwd * 90,
    "usr/bin/tool": bytes(range(256)) * 20,
}}
high = {{
    "etc/hosts": b"127.0.0.1 localhost\\n",
    "etc/passwd": passwd * 9,
    "usr/share/picture.png": picture,
    "srv/" + hostile.replace("/", "|"): hostile.encode(),
}}
registry = Registry().__enter__()
history = [{{"created_by": "COPY low / # buildkit"}}, {{"created_by": "RUN make high"}}]
registry.add_image("a/b", "v1", layers=[archive(low), archive(high)], config={{"history": history}})
image = distsdk.image(registry.locator("a/b") + ":v1", platform="linux/amd64")
"""


def rows(page: Page) -> list[str]:
    """Return the names that the explorer lists."""
    lines = page.locator(".distsdk-explorer .distsdk-files option").all_inner_texts()
    return [line.replace("\xa0", " ").split("  ")[0].strip() for line in lines]


def test_the_explorer_is_used_by_keys_alone(lab: Lab) -> None:
    """Layer, path, filter, order, rows and the button that opens: all with Tab, arrows and Enter."""
    lab.write("explorer.ipynb", EXPLORED, "image.explore()")
    lab.open("explorer.ipynb")
    lab.run()
    page, keys = lab.page, lab.page.keyboard
    explorer = page.locator(".distsdk-explorer").last
    listed = page.locator(".distsdk-explorer .distsdk-files option")
    preview = page.locator(".distsdk-explorer .distsdk-preview")

    def tab_to(name: str) -> None:
        for _ in range(15):
            keys.press("Tab")
            if page.evaluate("name => document.activeElement.closest('.' + name) !== null", name):
                return
        pytest.fail(f"Tab does not lead to {name}")

    expect(listed).to_have_count(3)
    assert ["etc/", "srv/", "usr/"] == rows(page)
    page.locator(".distsdk-explorer .distsdk-platform select").focus()

    tab_to("distsdk-layer")
    for key in ("Space", "ArrowDown", "Enter"):  # the lower layer alone
        keys.press(key)
    expect(listed).to_have_count(2)
    assert ["etc/", "usr/"] == rows(page)
    for key in ("Space", "ArrowUp", "Enter"):
        keys.press(key)
    expect(listed).to_have_count(3)

    tab_to("distsdk-path")
    keys.press("Control+a")
    keys.type("/etc")
    keys.press("Enter")
    expect(listed.first).to_contain_text("hosts")
    assert ["hosts", "os-release", "passwd"] == rows(page)

    tab_to("distsdk-sort")
    for key in ("Space", "ArrowDown", "Enter"):  # the largest first
        keys.press(key)
    expect(listed.first).to_contain_text("passwd")
    assert ["passwd", "os-release", "hosts"] == rows(page)

    page.locator(".distsdk-explorer .distsdk-path input").focus()
    tab_to("distsdk-filter")
    keys.type("os-rel")
    expect(listed).to_have_count(1)
    tab_to("distsdk-open")
    keys.press("Enter")
    expect(preview).to_contain_text("NAME=Test")
    expect(page.locator(".distsdk-explorer .distsdk-about")).to_contain_text("COPY low / # buildkit")
    expect(page.locator(".distsdk-explorer .distsdk-code")).to_contain_text("image.read_text('/etc/os-release')")
    lab.theme("JupyterLab Light")
    lab.shoot("explorer-light", explorer)
    lab.theme("JupyterLab Dark")
    assert [] == illegible(page, ".distsdk-explorer .jupyter-widgets:not(:has(.jupyter-widgets))")
    lab.shoot("explorer-dark", explorer)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/usr/bin/tool", "00000000"),
        ("/srv", "img src=x onerror"),
        (f"/srv/{HOSTILE.replace('/', '|')}", "<img src=x onerror"),
    ],
    ids=["binary", "hostile-name", "hostile-file"],
)
def test_the_explorer_shows_what_a_file_is(lab: Lab, path: str, shown: str, request: pytest.FixtureRequest) -> None:
    """Bytes as a hex dump, text as text, whatever it says."""
    name = f"{request.node.callspec.id}.ipynb"
    lab.write(name, EXPLORED, "image.explore()")
    lab.open(name)
    lab.run()
    field = lab.page.locator(".distsdk-explorer .distsdk-path input")
    field.fill(path)
    field.press("Enter")
    expect(lab.page.locator(".distsdk-explorer")).to_contain_text(shown)
    assert_inert(lab.page)


def test_the_explorer_shows_a_picture(lab: Lab) -> None:
    """A picture in an image is shown as one."""
    lab.write("picture.ipynb", EXPLORED, "image.explore()")
    lab.open("picture.ipynb")
    lab.run()
    field = lab.page.locator(".distsdk-explorer .distsdk-path input")
    field.fill("/usr/share/picture.png")
    field.press("Enter")
    picture = lab.page.locator(".distsdk-explorer .distsdk-preview img")
    picture.wait_for()
    assert [8, 8] == picture.evaluate("img => img.decode().then(() => [img.naturalWidth, img.naturalHeight])")
