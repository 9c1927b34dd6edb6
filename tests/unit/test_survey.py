"""A survey: a row for each image, whatever becomes of it, at no more than it has to cost."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import signal
import sys
import tarfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas
import pytest

import distsdk
from distsdk import Image, MissingExtra, Reference
from distsdk.analysis import survey as surveys
from distsdk.spec.media_types import OCI_CONFIG, OCI_MANIFEST
from distsdk.testing import Registry, Status
from distsdk.transport.pool import HostPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from distsdk.testing import Request, Response

CASSETTES = Path(__file__).parents[2] / "cassettes"
STATUS = (
    b"Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\nVersion: 2\n"
)


def layer(name: str, data: bytes) -> bytes:
    """Return a layer of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


LAYERS = [layer("var/lib/dpkg/status", STATUS), layer("etc/motd", b"hello")]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """Twenty images ``x:t0`` … ``x:t19`` that differ in their labels; the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry:
        for number in range(20):
            add(registry, number)
        yield registry


def add(registry: Registry, number: int, tag: str = "") -> None:
    """Add an image that differs from others by its number."""
    labels = {"number": str(number), "org.opencontainers.image.licenses": "MIT"}
    config = {"created": f"20{number + 10}-01-01T01:00:00+01:00", "config": {"Labels": labels}}
    registry.add_image("x", tag or f"t{number}", layers=LAYERS, config=config)


def references(registry: Registry, count: int = 20) -> list[str]:
    """Return what the images are called."""
    return [f"{registry.locator('x')}:t{number}" for number in range(count)]


def number_of(image: Image) -> int:
    """Return by what an image differs."""
    return int(image.config.labels["number"])


# What a row says


def test_a_row_says_what_the_image_is(registry: Registry) -> None:
    """Digest, sizes, layers, times: as the documents have them."""
    [name] = references(registry, 1)
    image = distsdk.image(name)
    [row] = distsdk.survey([name]).to_dict("records")
    assert {
        "reference": name,
        "digest": str(image.digest),
        "media_type": OCI_MANIFEST,
        "platforms": ("linux/amd64",),
        "manifest": str(image.digest),
        "platform": "linux/amd64",
        "size": image.manifest.size + image.config.size + sum(map(len, LAYERS)),
        "layers": 2,
        "created": pandas.Timestamp("2010-01-01", tz="UTC"),
        "licenses": "MIT",
    } == {key: value for key, value in row.items() if isinstance(value, tuple) or not pandas.isna(value)}


def test_the_columns_sort_and_sum(registry: Registry) -> None:
    """Numbers are whole, also beside rows that have none; times are in UTC; what has few values is a category."""
    table = distsdk.survey([*references(registry), f"{registry.locator('x')}:none"])
    assert {"size": "Int64", "layers": "Int64", "created": "datetime64[us, UTC]", "digest": "string"} == {
        name: str(table[name].dtype) for name in ("size", "layers", "created", "digest")
    }
    assert {"category"} == {str(table[name].dtype) for name in ("platform", "media_type", "error_kind")}
    assert 40 == table["layers"].sum()
    assert [*references(registry)][::-1] == list(table.sort_values("created", ascending=False)["reference"])[:20]
    assert {"linux/amd64": 20} == table.explode("platforms")["platforms"].value_counts().to_dict()


def test_rows_come_in_the_order_of_the_references(registry: Registry) -> None:
    """However the work is shared."""
    names = references(registry)[::-1] * 2
    table = distsdk.survey(names, columns=["size"], function=number_of)
    assert ["reference", "size", "value", "error", "error_kind"] == list(table)
    assert names == list(table["reference"])
    assert [*range(19, -1, -1)] * 2 == list(table["value"])


def test_an_index_is_followed_to_its_child(registry: Registry) -> None:
    """The digest is that of the index, which the tag stands for; all the rest is the child's."""
    images = [
        registry.add_image("x", layers=[LAYERS[0]] * count, platform=name)
        for count, name in ((1, "linux/amd64"), (2, "linux/arm64"), (3, "linux/s390x"))
    ]
    index = registry.add_index("x", "index", manifests=images)
    name = f"{registry.locator('x')}:index"
    table = distsdk.survey([name, f"{name}@{index.digest}"], platform="linux/s390x")
    for row in table.to_dict("records"):
        assert str(index.digest) == row["digest"]
        assert str(images[2].digest) == row["manifest"]
        assert ("linux/amd64", "linux/arm64", "linux/s390x") == row["platforms"]
        assert (3, "linux/s390x") == (row["layers"], row["platform"])
    registry.reset()
    assert ["PlatformNotFound"] == list(distsdk.survey([name], platform="linux/386", columns=[])["error_kind"])


def test_annotations_count_before_labels(registry: Registry) -> None:
    """The manifest's, then the config's labels, then the index's annotations: each where those before say nothing."""
    prefix = "org.opencontainers.image"
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Labels": {f"{prefix}.licenses": "label", f"{prefix}.base.name": "label"}},
        }
    ).encode()
    manifest = registry.add_manifest(
        "x",
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": registry.add_blob("x", config, media_type=OCI_CONFIG).to_fields(),
            "layers": [],
            "annotations": {f"{prefix}.licenses": "manifest"},
        },
        OCI_MANIFEST,
    )
    entry = {**manifest.to_fields(), "platform": {"os": "linux", "architecture": "amd64"}}
    keys = [f"{prefix}.{key}" for key in ("licenses", "base.name", "base.digest")]
    media_type = "application/vnd.oci.image.index.v1+json"
    fields = {"schemaVersion": 2, "manifests": [entry], "annotations": dict.fromkeys(keys, "index")}
    registry.add_manifest("x", fields, media_type, tags=["said"])
    columns = ["licenses", "base_name", "base_digest"]
    [row] = distsdk.survey([f"{registry.locator('x')}:said"], columns=columns, platform="linux/amd64").to_numpy()
    assert ["manifest", "label", "index"] == list(row)[1:4]


def test_packages_are_read_where_they_are_asked_for(registry: Registry) -> None:
    """By default no layer is touched."""
    assert "packages" not in distsdk.survey(references(registry, 1))
    digests = [str(distsdk.Digest.of(data)) for data in LAYERS]
    assert 0 == sum(registry.count("GET", digest) for digest in digests)
    table = distsdk.survey(references(registry, 1), columns=["packages"])
    assert [("a=1", "b=2")] == list(table["packages"])


def test_there_are_no_other_columns() -> None:
    """The message names those there are."""
    with pytest.raises(ValueError, match="there is no column 'colour': choose from digest, media_type"):
        distsdk.survey([], columns=["colour"])
    with pytest.raises(ValueError, match="per_host must be at least 1, not 0"):
        distsdk.survey([], per_host=0)
    assert 0 == len(distsdk.survey([]))


def test_pandas_is_asked_for_before_anything_else(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nothing is requested."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install 'distsdk\[pandas\]'"):
        distsdk.survey(references(registry))
    assert [] == registry.requests


# Errors


def test_errors_are_rows(registry: Registry) -> None:
    """Names that are none, images that are not there, artifacts, damaged documents: each with its message."""
    registry.add_artifact("x", "artifact", artifact_type="application/x", files={"a": b"1"})
    registry.add_manifest("x", b"{", OCI_MANIFEST, tags=["broken"])
    where = registry.locator("x")
    names = [f"{where}:none", "Not A Name", f"{where}:artifact", f"{where}:broken", f"{where}:t3", "127.0.0.1:1/x:y"]
    table = distsdk.survey(names, function=number_of)
    kinds = ["NotFound", "InvalidReference", "MediaTypeMismatch", "MalformedDocument", None, "Unreachable"]
    assert kinds == [kind if isinstance(kind, str) else None for kind in table["error_kind"]]
    assert names == list(table["reference"])
    assert "does not exist" in table["error"][0]
    assert 3 == table["value"][4]
    assert "Int64" == table["value"].dtype


def test_what_a_function_raises_is_its_rows_error(registry: Registry) -> None:
    """Also what is no error of distsdk; the message is safe to print."""

    def odd(image: Image) -> dict[str, object]:
        if number_of(image) % 2:
            raise KeyError("\x1b[31m")
        return {"half": number_of(image) // 2, "even": True, "text": "a"}

    table = distsdk.survey(references(registry, 4), columns=[], function=odd)
    assert [0, None, 1, None] == [None if value is pandas.NA else value for value in table["half"]]
    assert ["Int64", "boolean", "string"] == [str(table[name].dtype) for name in ("half", "even", "text")]
    assert "KeyError" == table["error_kind"][1]
    assert table["error"][1].isprintable()


def test_a_function_takes_no_name_that_is_taken(registry: Registry) -> None:
    """It would change what the column means."""
    table = distsdk.survey(references(registry, 1), columns=[], function=lambda _: {"error": 1})
    assert ["ValueError"] == list(table["error_kind"])


# What it costs


def test_an_image_costs_two_requests(registry: Registry) -> None:
    """Its manifest and its config."""
    distsdk.survey(references(registry))
    assert (0, 20, 20) == (registry.count("HEAD"), registry.count("GET", "manifests"), registry.count("GET", "blobs"))


class Peak:
    """A fault that changes nothing: it counts how many requests are there at once, and waits for a number of them."""

    def __init__(self, parties: int) -> None:
        self.most = self._now = 0
        self._parties = parties
        self._met = threading.Condition()

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer once so many are here, or were."""
        with self._met:
            self._now += 1
            self.most = max(self.most, self._now)
            self._met.notify_all()
            assert self._met.wait_for(lambda: self.most >= self._parties, 60)
        time.sleep(0.02)  # so that one more than there may be would be here with them
        response = respond(request)
        with self._met:
            self._now -= 1
        return response


def test_a_host_has_no_more_at_once_than_it_may(registry: Registry) -> None:
    """As many as that, and no more, however many threads there are."""
    peak = Peak(3)
    registry.fault(peak)
    table = distsdk.survey(references(registry), per_host=3, jobs=16)
    assert 20 == table["size"].count()
    assert 3 == peak.most
    assert 3 == registry.most_open


def test_hosts_do_not_wait_for_each_other(registry: Registry) -> None:
    """While one has all it may have and answers nothing, the others' images are read."""
    gate = threading.Event()
    done: list[int] = []

    class Gate:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            assert gate.wait(60)
            return respond(request)

    def at(count: int, total: int | None) -> None:
        done.append(count)
        if count == 20:
            gate.set()
        assert 40 == total

    with Registry(content_of=registry) as other:
        registry.fault(Gate())
        table = distsdk.survey([*references(registry), *references(other)], per_host=2, progress=at)
    assert [*range(1, 41)] == done
    assert 40 == table["size"].count()


@pytest.mark.slow
def test_references_are_taken_some_at_a_time(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many, no more wait than the limit says; how many there will be is not known then."""
    monkeypatch.setattr(surveys, "AHEAD", 50)
    taken, waiting, totals = 0, [0], set[int | None]()

    def names() -> Iterator[str]:
        nonlocal taken
        for number in range(500):
            taken += 1
            yield f"{registry.locator('x')}:t{number % 20}"

    def at(done: int, total: int | None) -> None:
        waiting.append(taken - done)
        totals.add(total)

    table = distsdk.survey(names(), columns=["layers"], progress=at)
    assert 1000 == table["layers"].sum()
    assert 50 <= max(waiting) <= 50 + surveys.PER_HOST * surveys.MOST_IN_TASK
    assert {None} == totals
    assert {} == surveys._remotes  # no connection stays open


# Hosts that want fewer requests


class Limit:
    """Answers 429 to some requests, once all those are there, and keeps when each request came."""

    def __init__(self, numbers: set[int], after: str | None) -> None:
        self.times: list[float] = []
        self._numbers = numbers
        self._headers = {} if after is None else {"Retry-After": after}
        self._lock = threading.Lock()
        self._all_there = threading.Barrier(len(numbers), timeout=60)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer, or refuse."""
        with self._lock:
            number = len(self.times)
            self.times.append(time.monotonic())
        if number in self._numbers:
            self._all_there.wait()
            return Status.error(429, "TOOMANYREQUESTS", headers=self._headers).answer(request, respond)
        return respond(request)


@pytest.mark.slow
def test_a_host_is_left_alone_for_as_long_as_it_says(registry: Registry) -> None:
    """Nothing is asked of it in between, and nothing is lost."""
    limit = Limit({7}, "1")
    registry.fault(limit)
    table = distsdk.survey(references(registry), per_host=1)
    assert 20 == table["size"].count()
    assert 42 == len(limit.times)  # once more the manifest and the config of the one image
    assert limit.times[8] - limit.times[7] >= 1


def test_a_refusal_counts_once_however_many_met_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight that were under way are refused together: that is one, and not eight in a row."""
    monkeypatch.setattr(surveys, "MOST_PAUSES", 1)
    registry.fault(Limit(set(range(8)), "0"))
    assert 20 == distsdk.survey(references(registry))["size"].count()


def test_a_host_that_wants_too_long_a_pause_is_given_up(registry: Registry) -> None:
    """It is asked nothing more; what was not read says why."""
    registry.fault(Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "86400"}), path="/t5$")
    table = distsdk.survey(references(registry), per_host=1)
    assert 5 == table["size"].count()
    assert {"RateLimited": 15} == table["error_kind"].value_counts().to_dict()
    assert "given up: " in table["error"][19]
    assert "try again in 24 hours" in table["error"][19]
    assert 11 == len(registry.requests)


def test_a_host_that_never_stops_refusing_is_given_up(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some pauses in a row, nothing done in between."""
    monkeypatch.setattr(surveys, "MOST_PAUSES", 3)
    registry.fault(Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "0"}))
    table = distsdk.survey(references(registry), per_host=1)
    assert {"RateLimited": 20} == table["error_kind"].value_counts().to_dict()
    assert 4 == len(registry.requests)


class HeldLimit(Limit):
    """Answers what comes after the 429 once that has reached the client."""

    def __init__(self, number: int, reached: threading.Event) -> None:
        super().__init__({number}, "1")
        self._number = number
        self._reached = reached

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer, or refuse."""
        response = super().answer(request, respond)
        if response.status != 429 and len(self.times) > self._number + 1:
            assert self._reached.wait(60)
        return response


def test_429_pauses_all_tasks_of_a_host_at_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pause come only requests that were under way: one for each of the other tasks at most."""
    for number in range(20, 200):
        add(registry, number)
    reached = threading.Event()
    ends: list[float] = []
    pause = HostPool.pause

    def seen(pool: HostPool, seconds: float) -> bool:
        is_news = pause(pool, seconds)
        ends.append(time.monotonic() + pool.paused() - 0.1)
        reached.set()
        return is_news

    monkeypatch.setattr(HostPool, "pause", seen)
    limit = HeldLimit(40, reached)
    registry.fault(limit)
    table = distsdk.survey(references(registry, 200), per_host=8)
    assert 200 == table["size"].count()
    assert sum(came < ends[0] for came in limit.times[41:]) <= 7


def test_per_host_bounds_connections_across_repositories(registry: Registry) -> None:
    """Three tasks at twenty repositories of one host open three connections."""
    names = []
    for number in range(20):
        registry.add_image(f"y{number}", "1", layers=LAYERS, config={"config": {"Labels": {"n": str(number)}}})
        names.append(f"{registry.locator(f'y{number}')}:1")
    assert 20 == distsdk.survey(names, per_host=3)["size"].count()
    assert len(registry.connections) <= 3


# Results that are kept


def test_a_second_survey_asks_once_for_each_tag(registry: Registry, tmp_path: Path) -> None:
    """What each stands for; no document is read again, and the table is the same."""
    names = references(registry)
    first = distsdk.survey(names, results=tmp_path / "kept", function=number_of, columns=list(surveys.COLUMNS))
    registry.reset()
    second = distsdk.survey(names, results=tmp_path / "kept", function=number_of, columns=list(surveys.COLUMNS))
    assert (20, 20) == (len(registry.requests), registry.count("HEAD", "manifests/t"))
    pandas.testing.assert_frame_equal(first, second)


def test_only_what_moved_is_read(registry: Registry, tmp_path: Path) -> None:
    """A tag that stands for something else, and one that is new; what is known by another name is not read."""
    names = references(registry)
    distsdk.survey(names, results=tmp_path)
    add(registry, 50, "t7")
    add(registry, 3, "again")
    registry.reset()
    table = distsdk.survey([*names, f"{registry.locator('x')}:again"], results=tmp_path)
    assert (21, 2) == (registry.count("HEAD"), registry.count("GET"))
    assert 2060 == table["created"][7].year
    assert table["digest"][3] == table["digest"][20]


def test_a_digest_that_is_known_costs_nothing(registry: Registry, tmp_path: Path) -> None:
    """What it stands for cannot change."""
    digests = distsdk.survey(references(registry), results=tmp_path)["digest"]
    registry.reset()
    table = distsdk.survey([f"{registry.locator('x')}@{digest}" for digest in digests], results=tmp_path)
    assert [] == registry.requests
    assert 20 == table["size"].count()


def test_errors_are_not_kept(registry: Registry, tmp_path: Path) -> None:
    """The next survey tries again."""
    registry.fault(Status(500), path="/blobs/", times=3)
    table = distsdk.survey(references(registry), results=tmp_path)
    assert 17 == table["size"].count()
    registry.reset()
    table = distsdk.survey(references(registry), results=tmp_path)
    assert 20 == table["size"].count()
    assert (20, 6) == (registry.count("HEAD"), registry.count("GET"))


def one(image: Image) -> object:
    """Return one thing."""
    return image.config.user


ONE = one


def one(image: Image) -> object:  # type: ignore[no-redef] # that is the point
    """Return another thing."""
    return number_of(image)


def test_another_question_has_other_answers(registry: Registry, tmp_path: Path) -> None:
    """Other columns, another platform, or another function: also one of the same name."""
    names = references(registry, 2)
    typed: list[Callable[[Image], object]] = []
    for text in ("image.config.user", "image.config.created"):
        where: dict[str, Any] = {}
        exec(f"def one(image): return {text}", {"__name__": "typed"}, where)  # noqa: S102 - as a person types it
        typed.append(where["one"])
    questions: list[dict[str, Any]] = [
        {"columns": ["size"]},
        {"platform": "linux/arm64"},
        *({"function": function} for function in (ONE, one, *typed, partial(plus, 1), partial(plus, 2), adder(1))),
        {"function": adder(2)},
    ]
    for question in questions:
        registry.reset()
        distsdk.survey(names, results=tmp_path, **question)
        assert 2 == registry.count("GET", "blobs"), question
        registry.reset()
        distsdk.survey(names, results=tmp_path, **question)
        assert 0 == registry.count("GET"), question


def plus(more: int, image: Image) -> int:
    """Return a number and some more."""
    return number_of(image) + more


def adder(more: int) -> Callable[[Image], int]:
    """Return a function that does."""
    return lambda image: number_of(image) + more


def test_a_damaged_result_is_read_again(registry: Registry, tmp_path: Path) -> None:
    """Half a file, an empty one, or one that is no row."""
    first = distsdk.survey(references(registry, 4), results=tmp_path)
    for path, data in zip(sorted(tmp_path.rglob("*.json")), (b"", b"{", b"[]", b"[" * 100_000), strict=True):
        path.write_bytes(data)
    registry.reset()
    pandas.testing.assert_frame_equal(first, distsdk.survey(references(registry, 4), results=tmp_path))
    assert 4 == registry.count("GET", "blobs")


def test_a_result_that_cannot_be_kept_is_an_error(registry: Registry, tmp_path: Path) -> None:
    """The message says what can be."""
    table = distsdk.survey(references(registry, 1), results=tmp_path, function=lambda image: image.digest)
    assert "return numbers, text, lists and dicts, or survey without results=" in table["error"][0]
    assert 1 == distsdk.survey(references(registry, 1), function=lambda image: image.digest)["value"].count()


def test_what_was_read_before_the_end_is_kept(registry: Registry, tmp_path: Path) -> None:
    """A survey that is ended in the middle goes on there."""

    def at(done: int, total: int | None) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distsdk.survey(references(registry), results=tmp_path, progress=at, per_host=1)
    registry.reset()
    assert 20 == distsdk.survey(references(registry), results=tmp_path)["size"].count()
    assert 10 >= registry.count("GET", "blobs")


# Beside other things


def test_a_cassette_is_played_to_the_threads_too() -> None:
    """What is inside a `replay` block counts for the survey as for everything else."""
    with distsdk.replay(CASSETTES / "redis"):
        table = distsdk.survey(["redis:7", "redis:no-such-tag"], platform="linux/amd64")
    assert 6 == table["layers"][0]
    assert isinstance(table["error"][1], str)


def test_references_may_be_values(registry: Registry) -> None:
    """A row is called what its reference is."""
    reference = Reference.parse(references(registry, 1)[0])
    assert [str(reference)] == list(distsdk.survey([reference])["reference"])


def test_the_bar_is_for_somebody_to_see(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written where nobody is."""
    distsdk.survey(references(registry, 1), progress=True)
    assert ("", "") == capsys.readouterr()


def test_what_goes_to_workers_is_small_and_holds_no_secret() -> None:
    """A task's pickle has the question and the references."""
    asked = surveys.Asked.of(None, platform="linux/amd64")
    step = surveys._Step(Reference.parse("redis:7"), resolve=True)
    data = pickle.dumps((surveys._work, asked, [step]))
    assert len(data) < 2000
    assert pickle.loads(data)[1] == asked  # noqa: S301 - our own bytes


# On a cluster


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers, which are processes, on this machine."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=4, host="127.0.0.1", dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_a_cluster_finds_the_same(registry: Registry, client: Client, tmp_path: Path) -> None:
    """Rows, order and errors; also what is kept."""
    names = [*references(registry), f"{registry.locator('x')}:none"]
    here = distsdk.survey(names, function=number_of)
    there = distsdk.survey(names, function=number_of, client=client)
    pandas.testing.assert_frame_equal(here, there)
    kept = distsdk.survey(names, function=number_of, client=client, results=tmp_path)
    registry.reset()
    again = distsdk.survey(names, function=number_of, client=client, results=tmp_path)
    pandas.testing.assert_frame_equal(kept, again)
    pandas.testing.assert_frame_equal(here.drop(columns="error"), again.drop(columns="error"))
    assert (21, 0) == (registry.count("HEAD"), registry.count("GET"))


def test_the_limit_holds_for_all_workers_together(registry: Registry, client: Client) -> None:
    """Three at once at the registry, of which two workers with four threads each could have more."""
    peak = Peak(3)
    registry.fault(peak)
    assert 20 == distsdk.survey(references(registry), per_host=3, client=client)["size"].count()
    assert 3 == peak.most


@pytest.mark.slow
def test_a_refusal_of_one_worker_holds_for_all(registry: Registry, client: Client) -> None:
    """One at a time, by whichever worker: nothing comes before the pause is over."""
    limit = Limit({7}, "1")
    registry.fault(limit)
    assert 20 == distsdk.survey(references(registry), per_host=1, client=client)["size"].count()
    assert limit.times[8] - limit.times[7] >= 1


@pytest.mark.slow
def test_a_worker_that_dies_loses_nothing(registry: Registry, client: Client, tmp_path: Path) -> None:
    """What it was at is done by another one."""
    flag = tmp_path / "died"

    def die_once(image: Image) -> int:
        if number_of(image) == 11:
            try:
                flag.touch(exist_ok=False)
            except FileExistsError:
                return os.getpid()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    table = distsdk.survey(references(registry), function=die_once, client=client)
    assert flag.exists()
    assert 20 == table["size"].count() == table["value"].count()


@pytest.mark.slow
def test_an_image_that_kills_workers_is_an_error(registry: Registry, client: Client) -> None:
    """It is one row; those that were in the same task are done."""
    cluster: Any = client.cluster
    scheduler = cluster.scheduler
    before, scheduler.allowed_failures = scheduler.allowed_failures, 0

    def die(image: Image) -> int:
        if number_of(image) == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1

    try:
        # One at a time: whatever else a worker that dies is at, the cluster holds against that too.
        table = distsdk.survey(references(registry), function=die, client=client, per_host=1)
    finally:
        scheduler.allowed_failures = before
    assert ["KilledWorker"] == list(table["error_kind"].dropna())
    assert "KilledWorker" == table["error_kind"][11]
    assert 19 == table["value"].sum()
