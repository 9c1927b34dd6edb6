from __future__ import annotations

import copy
import json
import pickle

import pytest
from attrs.exceptions import FrozenInstanceError

from distsdk._text import counted, human_size, human_time, quoted
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import HistoryEntry, ImageConfig, Index, Manifest
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Locator, Object, Reference

ENTRY = Descriptor(OCI_MANIFEST, Digest.of(b"a"), 1, Platform("linux", "arm"), {"a": "b"}, ("u",), b"a", "x/y")
VALUES = [
    Digest.of(b"a"),
    Locator.parse("redis"),
    Reference.parse(f"redis:7@{Digest.of(b'a')}"),
    Object.parse("latest"),
    Hint.parse("size:1"),
    Platform.parse("windows(10.0.17763+win32k)/amd64"),
    ENTRY,
    HistoryEntry("2017-01-10T20:02:22Z", "sh"),
    Manifest.parse(json.dumps({"schemaVersion": 2, "config": ENTRY.to_fields()}).encode()),
    Index.parse(json.dumps({"schemaVersion": 2, "manifests": [ENTRY.to_fields()]}).encode()),
    ImageConfig.parse(b'{"os": "linux", "config": {"Labels": {"a": "b"}}}'),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_values(value: object) -> None:
    """They compare, hash, travel between processes, can be copied, cannot be changed, and show themselves."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert value == pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 (its own pickle)
    assert [value, value] == [copy.copy(value), copy.deepcopy(value)]
    assert {value} == {copy.deepcopy(value)}
    assert value != "another"
    assert not hasattr(value, "__dict__")
    assert len(repr(value)) <= 200
    field = type(value).__attrs_attrs__[0].name  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, "x")


@pytest.mark.parametrize("value", VALUES[:5], ids=lambda value: type(value).__name__)
def test_names_are_written_as_they_are_read(value: Digest | Locator | Reference | Object | Hint) -> None:
    """`str` and `parse` are each other's inverse."""
    assert value == type(value).parse(str(value))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1783, "1,783 bytes"),
        (9_999, "9,999 bytes"),
        (10_000, "9.8 KiB"),
        (1_023_948, "999.9 KiB"),
        (1_023_949, "1.0 MiB"),
        (74_300_000, "70.9 MiB"),
        (2**63 - 1, "8,192.0 PiB"),
    ],
)
def test_human_size(size: int, expected: str) -> None:
    """Sizes are in binary units, as memory and pages of a disk have them."""
    assert expected == human_size(size)


def test_wording() -> None:
    """Numbers have their plural; foreign text is cut and escaped."""
    assert ["1 layer", "0 layers", "1,000 layers"] == [counted(number, "layer") for number in (1, 0, 1000)]
    assert "'abc…'" == quoted("abcd", 3)
    assert r"'\x1b[2J'" == quoted("\x1b[2J")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 seconds"),
        (0.2, "1 second"),
        (120, "120 seconds"),
        (121, "3 minutes"),
        (7200, "120 minutes"),
        (7201, "3 hours"),
        (172_801, "3 days"),
        (99_999_999, "1,158 days"),
    ],
)
def test_human_time_is_rounded_up(seconds: float, expected: str) -> None:
    """A span of time is written in the unit that keeps its number short."""
    assert expected == human_time(seconds)
