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
    shown = re.sub(r"\s+", " ", " ".join(lab.output.all_inner_texts()))
    committed = json.loads((ROOT / "notebooks" / name).read_text())
    digests = {
        digest
        for cell in committed["cells"]
        for output in cell.get("outputs", [])
        for digest in re.findall(r"sha256:[0-9a-f]{64}", "".join(output.get("data", {}).get("text/plain", "")))
    }
    assert digests
    assert [] == [d for d in sorted(digests) if d.removeprefix("sha256:")[:12] not in shown]
    page = lab.page
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        lab.theme(theme)
        assert [] == illegible(page, ".jp-Notebook .distsdk")
        for number, block in enumerate(page.locator(".jp-Notebook .distsdk:visible").all()):
            block.scroll_into_view_if_needed()
            lab.shoot(f"{name.removesuffix('.ipynb')}-{theme.split()[1].lower()}-{number}", block)


def test_the_walkthrough_ends_in_2017(lab: Lab) -> None:
    """The last cell of the first notebook shows the digest of January 2017."""
    lab.open("01-redis-walkthrough.ipynb")
    lab.run()
    expect(lab.output.filter(has_text=GENUINE)).not_to_have_count(0)


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
