from __future__ import annotations

import platform as machine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import InvalidHint, MalformedDocument
from distsdk.spec.platform import Platform

HERE = Platform.local().architecture

# The inputs and expectations of containerd/platforms, platforms_test.go: TestParseSelector. There, an architecture
# alone is on the system of whoever asks; here, it is on linux.
PARSED = [
    ("linux/arm64", Platform("linux", "arm64"), "linux/arm64"),
    ("linux/arm64/v8", Platform("linux", "arm64", "v8"), "linux/arm64/v8"),
    ("linux/arm", Platform("linux", "arm"), "linux/arm"),
    ("linux/arm/v6", Platform("linux", "arm", "v6"), "linux/arm/v6"),
    ("linux/arm/v7", Platform("linux", "arm", "v7"), "linux/arm/v7"),
    ("arm", Platform("linux", "arm"), "linux/arm"),
    ("armel", Platform("linux", "arm", "v6"), "linux/arm/v6"),
    ("armhf", Platform("linux", "arm"), "linux/arm"),
    ("Aarch64", Platform("linux", "arm64"), "linux/arm64"),
    ("x86_64", Platform("linux", "amd64"), "linux/amd64"),
    ("Linux/x86_64", Platform("linux", "amd64"), "linux/amd64"),
    ("i386", Platform("linux", "386"), "linux/386"),
    ("s390x", Platform("linux", "s390x"), "linux/s390x"),
    ("linux/s390x", Platform("linux", "s390x"), "linux/s390x"),
    ("linux", Platform("linux", HERE), f"linux/{HERE}"),
    ("macOS", Platform("darwin", HERE), f"darwin/{HERE}"),
    ("windows", Platform("windows", HERE), f"windows/{HERE}"),
    ("windows()", Platform("windows", HERE), f"windows/{HERE}"),
    ("windows(10.0.17763)", Platform("windows", HERE, "", "10.0.17763"), f"windows(10.0.17763)/{HERE}"),
    (
        "windows(10.0.17763+win32k)",
        Platform("windows", HERE, "", "10.0.17763", ("win32k",)),
        f"windows(10.0.17763+win32k)/{HERE}",
    ),
    ("linux(+gpu)", Platform("linux", HERE, os_features=("gpu",)), f"linux(+gpu)/{HERE}"),
    ("linux(+gpu+simd)", Platform("linux", HERE, os_features=("gpu", "simd")), f"linux(+gpu+simd)/{HERE}"),
    (
        "linux(+unsorted+erofs)",
        Platform("linux", HERE, os_features=("unsorted", "erofs")),
        f"linux(+erofs+unsorted)/{HERE}",
    ),
    (
        "windows(10.0.17763%2Bbuild.42+win32k)/amd64",
        Platform("windows", "amd64", "", "10.0.17763+build.42", ("win32k",)),
        "windows(10.0.17763%2Bbuild.42+win32k)/amd64",
    ),
    ("windows(50%25done)/amd64", Platform("windows", "amd64", "", "50%done"), "windows(50%25done)/amd64"),
    # TestFormatAllEncoding
    ("windows(1.0%28beta%29)/amd64", Platform("windows", "amd64", "", "1.0(beta)"), "windows(1.0%28beta%29)/amd64"),
    ("windows(a%2Fb)/amd64", Platform("windows", "amd64", "", "a/b"), "windows(a%2Fb)/amd64"),
    ("linux(+feat%2Bv2)/amd64", Platform("linux", "amd64", os_features=("feat+v2",)), "linux(+feat%2Bv2)/amd64"),
    (
        "windows(10.0%2Bbuild+feat%2B1)/amd64",
        Platform("windows", "amd64", "", "10.0+build", ("feat+1",)),
        "windows(10.0%2Bbuild+feat%2B1)/amd64",
    ),
]

# compare_test.go: TestOnly. What runs on the platform, and what does not.
ARM = "linux/arm/v5 linux/arm/v6 linux/arm/v7 linux/arm/v8 linux/arm"
ONLY = [
    ("linux/amd64", "linux/amd64 linux/386", "linux/amd64/v2 linux/arm/v7 linux/arm64 windows/amd64 windows/arm"),
    (
        "linux/amd64/v2",
        "linux/amd64 linux/amd64/v1 linux/amd64/v2 linux/386",
        "linux/amd64/v3 linux/amd64/v4 linux/arm/v7 linux/arm64 windows/amd64 windows/arm",
    ),
    ("linux/386", "linux/386", "linux/amd64 linux/arm/v7 linux/arm64 windows/amd64 windows/arm"),
    ("windows/amd64", "windows/amd64 windows(10.0.17763)/amd64", "linux/amd64 linux/arm/v7 linux/arm64 windows/arm"),
    ("linux/arm/v8", ARM, "linux/amd64 linux/arm/v4 linux/arm64 windows/amd64 windows/arm"),
    (
        "linux/arm/v7",
        "linux/arm linux/arm/v5 linux/arm/v6 linux/arm/v7",
        "linux/amd64 linux/arm/v4 linux/arm/v8 linux/arm64 windows/amd64 windows/arm",
    ),
    (
        "linux/arm/v6",
        "linux/arm/v5 linux/arm/v6",
        "linux/amd64 linux/arm linux/arm/v4 linux/arm/v7 linux/arm/v8 linux/arm64 windows/amd64 windows/arm",
    ),
    (
        "linux/arm/v5",
        "linux/arm/v5",
        "linux/amd64 linux/arm linux/arm/v4 linux/arm/v6 linux/arm/v7 linux/arm/v8 linux/arm64 windows/arm",
    ),
    (
        "linux/arm/v4",
        "linux/arm/v4",
        "linux/amd64 linux/arm linux/arm/v5 linux/arm/v6 linux/arm/v7 linux/arm/v8 linux/arm64 windows/arm",
    ),
    (
        "linux/arm64/v9.6",
        f"{ARM} linux/arm64 linux/arm64/v8 linux/arm64/v8.1 linux/arm64/v8.2 linux/arm64/v8.3 linux/arm64/v8.4 "
        "linux/arm64/v8.5 linux/arm64/v8.6 linux/arm64/v8.7 linux/arm64/v8.8 linux/arm64/v8.9 linux/arm64/v9 "
        "linux/arm64/v9.0 linux/arm64/v9.1 linux/arm64/v9.2 linux/arm64/v9.3 linux/arm64/v9.4 linux/arm64/v9.5 "
        "linux/arm64/v9.6",
        "linux/amd64 linux/arm/v4 windows/amd64 windows/arm linux/arm64/v8.10",
    ),
    (
        "linux/arm64/v9",
        f"{ARM} linux/arm64 linux/arm64/v8 linux/arm64/v8.1 linux/arm64/v8.2 linux/arm64/v8.3 linux/arm64/v8.4 "
        "linux/arm64/v8.5 linux/arm64/v9 linux/arm64/v9.0",
        "linux/amd64 linux/arm/v4 windows/amd64 windows/arm linux/arm64/v8.6",
    ),
    (
        "linux/arm64/v8.1",
        f"{ARM} linux/arm64 linux/arm64/v8 linux/arm64/v8.1",
        "linux/amd64 linux/arm/v4 linux/arm/v9 linux/arm64/v9 windows/amd64 windows/arm",
    ),
    (
        "linux/arm64",
        f"{ARM} linux/arm64 linux/arm64/v8",
        "linux/amd64 linux/arm/v4 linux/arm/v9 linux/arm64/v9 windows/amd64 windows/arm",
    ),
    # platform_windows_compat_test.go: before 2022 the build must be the same; since then, builds back to the previous
    # long-term release serve.
    ("windows(10.0.17763)/amd64", "windows(10.0.17763.1)/amd64 windows/amd64", "windows(10.0.17764)/amd64"),
    ("windows(10.0.17763)/amd64", "windows(10.0.17763+win32k)/amd64", "windows(11.0.17763)/amd64"),
    ("windows(10.0.20348)/amd64", "windows(10.0.20348)/amd64", "windows(10.0.17763)/amd64 windows(10.0.22621)/amd64"),
    ("windows(10.0.22621)/amd64", "windows(10.0.20348)/amd64 windows(10.0.22621)/amd64", "windows(10.0.17763)/amd64"),
    ("windows(10.0.26100)/amd64", "windows(10.0.20348)/amd64 windows(10.0.25398)/amd64", "windows(10.0.17763)/amd64"),
    ("windows(10.0.26200)/amd64", "windows(10.0.26100)/amd64", "windows(10.0.25398)/amd64 windows(10.0.20348)/amd64"),
    ("linux(+gpu)/amd64", "linux/amd64 linux(+gpu)/amd64 linux(+gpu)/386", "linux(+gpu+simd)/amd64 linux(+x)/amd64"),
]

# compare_test.go: TestCompareOSFeatures, of which the first is chosen; and the orders that compare.go's vectors have.
BEST = [
    ("linux/amd64", "windows/amd64 linux/amd64 linux(+other)/amd64 linux/arm64", "linux/amd64"),
    ("linux(+other)/amd64", "windows/amd64 linux/amd64 linux/arm64 linux(+other)/amd64", "linux(+other)/amd64"),
    ("linux(+af+other+zf)/amd64", "windows/amd64 linux/amd64 linux(+other)/amd64", "linux(+other)/amd64"),
    ("linux(+f1+f2)/amd64", "linux/amd64 linux(+f2)/amd64 linux(+f1)/amd64 linux(+f1+f2)/amd64", "linux(+f1+f2)/amd64"),
    ("linux(+f1+f2)/amd64", "linux/amd64 linux(+f2)/amd64 linux(+f1)/amd64", "linux(+f2)/amd64"),
    ("linux(+f)/amd64", "linux(+f)/386 linux/amd64", "linux/amd64"),
    ("linux/amd64", "linux/386 linux/amd64", "linux/amd64"),
    ("linux/amd64/v3", "linux/386 linux/amd64 linux/amd64/v2 linux/amd64/v4", "linux/amd64/v2"),
    ("linux/arm64", "linux/arm/v6 linux/arm/v7 linux/arm64/v8", "linux/arm64/v8"),
    ("linux/arm64", "linux/arm/v6 linux/arm/v7", "linux/arm/v7"),
    ("linux/arm64/v9.2", "linux/arm64 linux/arm64/v8.7 linux/arm64/v9 linux/arm64/v9.3", "linux/arm64/v9"),
    ("linux/arm", "linux/arm/v5 linux/arm/v7 linux/arm/v6", "linux/arm/v7"),
    ("linux/arm64/v10", "linux/arm64 linux/arm64/v10", "linux/arm64/v10"),
]


@pytest.mark.parametrize(("text", "expected", "written"), PARSED)
def test_parse_and_str(text: str, expected: Platform, written: str) -> None:
    """Platforms are read and written as containerd does, and what is written is read back the same."""
    parsed = Platform.parse(text)
    assert (expected, written) == (parsed, str(parsed))
    assert written == str(Platform.parse(written))
    assert parsed.matches(parsed)


@pytest.mark.parametrize(
    "text",
    # platforms_test.go: TestParseSelectorInvalid, and more.
    [
        *[
            "",
            "/linux/arm",
            "linux/arm/",
            "linux /arm",
            "linux/&arm",
            "linux/arm/foo/bar",
            "linux//arm",
            "*",
            "linux/*",
        ],
        *["toaster", "toaster(1)", "linux(", "linux()x/amd64", "linux/amd64\n", "linux/ämd64", "windows(%2)/amd64"],
        *["windows(%zz)/amd64", "windows(%0A)/amd64", "windows(%1b)/amd64", "windows(%FF)/amd64"],
    ],
)
def test_what_names_no_platform_is_refused(text: str) -> None:
    """A platform that cannot be is an error at once, not an empty answer later."""
    with pytest.raises(InvalidHint, match=r"write os/architecture|hex digits"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        (("linux", "arm64", "v8"), ("linux", "arm64", "")),
        (("linux", "aarch64", "8"), ("linux", "arm64", "")),
        (("linux", "arm64", "v8.0"), ("linux", "arm64", "")),
        (("linux", "arm64", "v9.0"), ("linux", "arm64", "v9")),
        (("linux", "arm64", "9"), ("linux", "arm64", "v9")),
        (("linux", "arm64", "9.0"), ("linux", "arm64", "v9")),
        (("linux", "arm64", "v8.2"), ("linux", "arm64", "v8.2")),
        (("linux", "arm", ""), ("linux", "arm", "v7")),
        (("linux", "arm", "7"), ("linux", "arm", "v7")),
        (("linux", "arm", "5"), ("linux", "arm", "v5")),
        (("linux", "arm", "6"), ("linux", "arm", "v6")),
        (("linux", "arm", "8"), ("linux", "arm", "v8")),
        (("linux", "armhf", ""), ("linux", "arm", "v7")),
        (("linux", "armel", ""), ("linux", "arm", "v6")),
        (("linux", "ARMHF", "v5"), ("linux", "arm", "v7")),
        (("LINUX", "X86-64", "V1"), ("linux", "amd64", "")),
        (("linux", "amd64", "v2"), ("linux", "amd64", "v2")),
        (("linux", "i386", "x"), ("linux", "386", "")),
        (("macOS", "x86_64", ""), ("darwin", "amd64", "")),
        (("", "amd64", ""), ("linux", "amd64", "")),
        (("linux", "riscv64", ""), ("linux", "riscv64", "")),
    ],
)
def test_normalised(given_as: tuple[str, str, str], expected: tuple[str, str, str]) -> None:
    """One platform has one spelling (containerd/platforms, database.go)."""
    assert Platform(*expected) == Platform(*given_as).normalised()


@pytest.mark.parametrize(("text", "runs", "does_not"), ONLY)
def test_what_runs_on_a_platform(text: str, runs: str, does_not: str) -> None:
    """Lower variants and 32 bits serve; higher variants, other systems and other architectures do not."""
    platform = Platform.parse(text)
    expected = {**dict.fromkeys(runs.split(), True), **dict.fromkeys(does_not.split(), False)}
    assert expected == {name: platform.matches(Platform.parse(name)) for name in expected}


@pytest.mark.parametrize(("text", "candidates", "best"), BEST)
def test_the_best_is_chosen(text: str, candidates: str, best: str) -> None:
    """An exact match wins, then what is closest, then what has most features, then what comes first."""
    names = candidates.split()
    chosen = Platform.parse(text).choose([Platform.parse(name) for name in names])
    assert best == (None if chosen is None else names[chosen])


def test_what_names_no_platform_is_not_chosen() -> None:
    """No guess is made for an entry that does not say what it runs on; among equals the first wins."""
    amd64, arm = Platform("linux", "amd64"), Platform("linux", "arm")
    assert None is amd64.choose([])
    assert None is amd64.choose([None, arm])
    assert 2 == amd64.choose([None, arm, amd64, amd64])


@given(st.text())
def test_parse_never_fails_otherwise(text: str) -> None:
    """Any text is a platform or an `InvalidHint` (containerd's FuzzPlatformsParse)."""
    try:
        parsed = Platform.parse(text)
    except InvalidHint:
        return
    assert str(parsed) == str(Platform.parse(str(parsed)))


NAMES = st.sampled_from(["linux", "windows", "amd64", "arm", "arm64", "386", "v1", "v2", "v7", "v8", "v8.1", "v9", ""])


@given(st.builds(Platform, NAMES, NAMES, NAMES, NAMES))
def test_normalising_is_done_once(platform: Platform) -> None:
    """What is normal stays as it is, and means the same as what it was made from."""
    normal = platform.normalised()
    assert normal == normal.normalised()
    assert platform.matches(normal)
    assert normal.matches(platform)


@given(st.text("v0123456789.", max_size=12))
def test_strange_variants_cost_nothing(variant: str) -> None:
    """A variant of a registry's making neither fails nor makes a list of millions."""
    for architecture in ("amd64", "arm", "arm64"):
        platform = Platform("linux", architecture, variant)
        assert platform.matches(platform)


@pytest.mark.parametrize(
    ("uname", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("AMD64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("arm64", "linux/arm64"),
        ("armv7l", "linux/arm"),
        ("armv8l", "linux/arm"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("ppc64le", "linux/ppc64le"),
        ("s390x", "linux/s390x"),
        ("riscv64", "linux/riscv64"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_local(uname: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is linux on this machine's architecture, by Go's name for it."""
    monkeypatch.setattr(machine, "machine", lambda: uname)
    assert expected == str(Platform.local())


def test_fields_are_those_of_the_image_spec() -> None:
    """`os.version` and `os.features` are keys with a dot; what is empty is left out."""
    fields = {"architecture": "amd64", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"]}
    assert fields == Platform.from_fields(fields).to_fields()
    assert {"architecture": "", "os": ""} == Platform.from_fields({"os.features": None}).to_fields()
    with pytest.raises(MalformedDocument, match=r"platform\.variant is a number"):
        Platform.from_fields({"variant": 8})


def test_repr_is_bounded() -> None:
    """A hostile platform is shown escaped and cut."""
    assert "Platform('linux/arm64/v8')" == repr(Platform("linux", "arm64", "v8"))
    shown = repr(Platform("\x1b" * 1000, "x"))
    assert shown.isprintable()
    assert len(shown) < 1000


@given(st.builds(Platform, st.text(), st.text(), st.text(), st.text(), st.tuples(st.text())))
def test_text_is_printable(platform: Platform) -> None:
    """The text of a platform is printable, whatever its parts hold."""
    assert str(platform).isprintable()


def test_text_escapes_control_and_bidi_characters() -> None:
    """Control and bidi characters are escaped as in messages, and letters of any script stay."""
    assert "li\\nnux/arm\\x1b\\u202e/größe" == str(Platform("li\nnux", "arm\x1b\u202e", "größe"))
