"""The remote keeps distsdk's contract of remotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distsdk
from distsdk.testing.suite import Content, RemoteSuite, TagListerSuite

if TYPE_CHECKING:
    from pathlib import Path


class TestFiles(RemoteSuite, TagListerSuite):
    @pytest.fixture
    def remote(self, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> distsdk.Remote:
        """A remote over a folder with the content."""
        root = tmp_path / "root"
        for digest, raw in content.objects.items():
            file = root / "some/dir" / digest.algorithm / digest.hex
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(raw)
        for tag, digest in content.tags.items():
            file = root / "some/dir" / "tags" / tag
            file.parent.mkdir(exist_ok=True)
            file.write_text(str(digest))
        monkeypatch.setenv("FILES_ROOT", str(root))
        return distsdk.connect("files.example/some/dir")
