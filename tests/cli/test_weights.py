"""``torchseg-zoo weights``: through the real fetcher, from a site of real files on loopback."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fetch_processes import QUICK
from foreign import save
from guard_processes import Quick
from loopback import Request, Server, content, digest

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.errors import (
    ArgumentError,
    CacheError,
    CheckpointFormatError,
    DataError,
    DownloadError,
    IntegrityError,
    UnknownCheckpointError,
    UnknownModelError,
    ZooError,
)
from torchseg_zoo.weights import fetch as fetch_module
from torchseg_zoo.weights import guard, manifest, released, terms
from torchseg_zoo.weights.http import Policy
from torchseg_zoo.weights.lock import try_flock
from torchseg_zoo.weights.manifest import Checkpoint

FOREIGN = "bisenet_x39.cityscapes"  # a file of TorchSeg's layout, no digest published
PREFIX = "pspnet_r50.cityscapes"  # 8 digits published
FULL = "fcn_r50.voc"  # full digest and size; may be used commercially
DRIVE = "dfn_r101.voc"  # on Google Drive: no name, no digest
EMBEDDED = "bisenet_x39.camvid"
DATA = {PREFIX: content(2 << 20, 1), FULL: content(30_000, 2)}
REAL = json.loads(manifest.manifest_path().read_text(encoding="utf-8"))
_VARIABLES = (
    "HF_HUB_OFFLINE",
    "TORCHSEG_ZOO_OFFLINE",
    "TORCHSEG_ZOO_MIRROR",
    "TORCHSEG_ZOO_DEADLINE",
    "RANK",
    "LOCAL_RANK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)


class Done(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch_module, "_policy", lambda: Policy(**QUICK))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def foreign_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "x39.pth"
    save("torchseg/bisenet_x39", path)
    return path


def real(name: str, **changes: Any) -> dict[str, Any]:
    """An entry of the real manifest, altered."""
    model, _, tag = name.partition(".")
    entry = next(e for e in REAL["checkpoints"] if (e["model"], e["tag"]) == (model, tag))
    return {**entry, **changes}


def declare(records: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "weights_manifest.json"
    path.write_text(json.dumps({**REAL, "checkpoints": records}))
    monkeypatch.setattr(manifest, "manifest_path", lambda: path)
    manifest.load.cache_clear()


@pytest.fixture(scope="module")
def _reading() -> Iterator[Quick]:
    started = Quick()
    yield started
    started.close()


@pytest.fixture
def site(
    _reading: Quick,
    cache: Path,
    foreign_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A server with the files of a small manifest; they are read in a process that has forked."""
    monkeypatch.setattr(guard, "_run", _reading.run)
    with Server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)

        def at(path: str, data: bytes) -> list[dict[str, str]]:
            return [{"kind": "https", "location": server.file(path, data)}]

        records = [
            real(FOREIGN, sources=at("/x39.pth", foreign_file.read_bytes())),
            real(PREFIX, sources=at("/p.pth", DATA[PREFIX]), sha256=digest(DATA[PREFIX])[:8]),
            real(
                FULL,
                sources=at("/f.pth", DATA[FULL]),
                sha256=digest(DATA[FULL]),
                size_bytes=len(DATA[FULL]),
                licenses={"code": "MIT", "weights": "Apache-2.0", "dataset": "CC-BY-4.0"},
            ),
            real(DRIVE),
            real(EMBEDDED),
        ]
        declare(records, tmp_path, monkeypatch)
        yield server
    manifest.load.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    manifest.load.cache_clear()


def assert_failed(done: Done, error: type[ZooError], *words: str) -> None:
    assert done.code == error.exit_code, done
    line = done.err.splitlines()[-1]
    assert line.startswith(f"torchseg-zoo: {error.__name__}: ")
    for word in words:
        assert word in line


def blobs(cache: Path) -> set[str]:
    return {path.name for path in (cache / "blobs").iterdir()}


def age(path: Path, seconds: float = 3600) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# Listing


def test_every_line_of_a_listing_has_what_decides_about_use(call: Call, site: Server) -> None:
    for arguments in (("weights", "list"), ("list", "--pretrained")):
        lines = call(*arguments).out.splitlines()
        rows = {line.split()[0]: line for line in lines[1 : lines.index("")]}
        assert set(rows) == {FOREIGN, PREFIX, FULL, DRIVE, EMBEDDED}
        head = lines[0]
        for column, name, cell in (
            ("status", FULL, "listed"),
            ("status", EMBEDDED, "scored"),
            ("use", FULL, "commercial"),
            ("use", PREFIX, "non-commercial"),
            ("use", DRIVE, "not stated"),
            ("size", FULL, "0.0 MB"),
            ("size", PREFIX, "unknown"),
            ("sha256", FULL, "full"),
            ("sha256", PREFIX, "prefix"),
            ("sha256", FOREIGN, "none"),
            ("preprocess", FOREIGN, "unverified"),
            ("preprocess", PREFIX, "known"),
            ("repository", PREFIX, "Apache-2.0"),
            ("weights  ", PREFIX, "not stated"),
            ("data set", PREFIX, "Cityscapes terms: non-commercial research and teaching"),
        ):
            assert rows[name][head.index(column) :].split("  ")[0] == cell, (column, name)
        legend = "\n".join(lines[lines.index("") :])
        for word in ("listed: known", "loaded: converted", "scored: its score", "pinned"):
            assert word in legend
        assert "not\n" in legend or "ask the owners first" in legend


def test_filters(call: Call, site: Server) -> None:
    def names(*arguments: str) -> list[str]:
        return [
            json.loads(line)["name"]
            for line in call("weights", "list", "--json", *arguments).out.splitlines()
        ]

    assert names() == sorted([FOREIGN, PREFIX, FULL, DRIVE, EMBEDDED])
    assert names("--family", "bisenet") == names("bisenet*") == [EMBEDDED, FOREIGN]
    assert names("bisenet_x39", PREFIX) == [EMBEDDED, FOREIGN, PREFIX]
    assert names("--dataset", "voc") == [DRIVE, FULL]
    assert names("--status", "scored") == [EMBEDDED]
    assert names("--commercial-ok") == [FULL]
    assert names("pspnet_r101") == []
    # An alias names its entry.
    alias = next(iter(manifest.load()[PREFIX].aliases))
    assert names(f"pspnet_r50.{alias}") == [PREFIX]


def test_a_filter_that_names_nothing_is_an_error(call: Call, site: Server) -> None:
    assert_failed(call("weights", "list", "pspnet_r5"), UnknownModelError, "pspnet_r50")
    done = call("weights", "list", "pspnet_r50.citscapes")
    assert_failed(done, UnknownCheckpointError, "cityscapes")
    done = call("weights", "list", "--dataset", "vok")
    assert_failed(done, ArgumentError, "--dataset", "camvid, cityscapes, voc")
    assert_failed(call("weights", "list", "--family", "bise"), ArgumentError, "bisenet, dfn, fcn")
    assert call("weights", "list", "--status", "new").code == 2


def test_the_commercial_filter_says_how_it_decides(call: Call, site: Server) -> None:
    for arguments in (("weights", "list", "--commercial-ok"), ("list", "--commercial-ok")):
        done = call(*arguments)
        assert [line.split()[0] for line in done.out.splitlines()[1:2]] == [FULL]
        assert PREFIX not in done.out and EMBEDDED not in done.out
        assert "1 of 5 checkpoints" in done.err and "weights and data set" in done.err
    assert "0 of 1 checkpoints" in call("list", "pspnet*", "--commercial-ok").err


@pytest.mark.parametrize(
    ("weights", "dataset", "use"),
    [
        ("MIT", "CC0-1.0", "commercial"),
        ("MIT", "not stated", "not stated"),
        (None, "MIT", "not stated"),
        ("", "MIT", "not stated"),
        ("not stated", "CC-BY-4.0", "not stated"),
        ("Apache-2.0", "Cityscapes terms: non-commercial research", "non-commercial"),
        ("Apache-2.0", "academic use only", "non-commercial"),
        ("CC-BY-NC-4.0", "MIT", "non-commercial"),
        ("mit", "MIT", "not stated"),
        ("MIT, see the file", "MIT", "not stated"),
        ("GPL-3.0-only", "MIT", "not stated"),
        ("Apache-2.0", "COCO: annotations CC BY 4.0, pictures under Flickr's terms", "not stated"),
    ],
)
def test_the_verdict_leans_to_the_safe_side(weights: str | None, dataset: str, use: str) -> None:
    stated = {"code": "MIT", "dataset": dataset} | ({} if weights is None else {"weights": weights})
    entry = Checkpoint.from_dict(real(PREFIX, licenses=stated), where="test")
    assert terms.use(entry) == use
    assert entry.commercial_ok == (use == "commercial") == (not terms.commercial_obstacles(entry))


def test_no_real_checkpoint_passes_unless_both_terms_are_known_licences() -> None:
    for entry in manifest.list_checkpoints():
        allowed = {entry.licenses["weights"], entry.licenses["dataset"]} <= set(manifest.PERMISSIVE)
        assert entry.commercial_ok == allowed


def test_listings_and_help_need_no_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'numpy', 'safetensors', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"
        "from torchseg_zoo.cli import main\n"
        "for line in (['weights', 'list'], ['weights', 'list', '--json', '--commercial-ok'],\n"
        "             ['weights', 'info', 'dfn_r101'], ['list', '--pretrained'],\n"
        "             ['list', '--commercial-ok'], ['weights', 'prune', '--dry-run'],\n"
        "             ['weights', 'verify', 'dfn_r101.voc']):\n"
        "    assert main(line) in (0, 3), line\n"
        "main(['weights', 'mirror', '--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "TORCHSEG_ZOO_CACHE": "/nonexistent/cache"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TORCHSEG_ZOO_MIRROR" in done.stdout


@pytest.mark.parametrize(
    "verb", ["list", "info", "fetch", "import", "mirror", "verify", "prune", "publish"]
)
def test_help_of_every_verb(call: Call, verb: str) -> None:
    done = call("weights", verb, "--help")
    assert done.code == 0 and f"usage: torchseg-zoo weights {verb}" in done.out
    assert verb in call("weights", "--help").out
    assert call("weights").code == 2


def test_info_says_it_all(call: Call, site: Server) -> None:
    text = " ".join(call("weights", "info", FOREIGN).out.split())
    for word in (
        "listed: known from a public index",
        "licence of the repository: MIT",
        "licence of the weights: not stated",
        "licence of the data set: Cityscapes terms",
        "use non-commercial: the terms of the weights and data set",
        "unverified: std",
        "sha256 not published",
        f"{site.url}/x39.pth",
        f"here no; torchseg-zoo weights fetch {FOREIGN} gets it",
        "% mIoU on cityscapes val, sliding",
    ):
        assert word in text
    assert digest(DATA[FULL]) in call("weights", "info", FULL).out
    both = call("weights", "info", "bisenet_x39").out
    assert "comes with the package" in both and FOREIGN in both
    assert "never released the file" in " ".join(call("weights", "info", "fcn32s_r101").out.split())
    assert "no checkpoint is released" in call("weights", "info", "pspnet_r101").out
    call("weights", "fetch", FULL)
    assert f"downloaded: {os.environ['TORCHSEG_ZOO_CACHE']}" in " ".join(
        call("weights", "info", FULL).out.split()
    )


# Fetching


def test_fetch_gets_what_is_missing_and_tells_the_licences_once(
    call: Call, site: Server, cache: Path
) -> None:
    done = call("weights", "fetch", FULL, PREFIX, EMBEDDED)
    assert done.code == 0
    assert done.out.splitlines()[0].startswith(f"{FULL}  0.0 MB  {cache}/blobs/")
    assert done.out.splitlines()[2] == f"{EMBEDDED}  comes with the package"
    assert blobs(cache) == {digest(data) for data in DATA.values()}
    said = f"{FULL} licences: weights: Apache-2.0; code: MIT; dataset: CC-BY-4.0\n"
    assert done.err.count(said) == 1 and done.err.count(" licences: ") == 2
    asked = len(site.log)
    again = call("weights", "fetch", FULL, PREFIX)
    assert again.code == 0 and again.err == "" and len(site.log) == asked


def test_pretrained_tells_the_licences_once_whatever_came_first(
    call: Call, site: Server, cache: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    said = f"{FOREIGN} licences: weights: not stated; code: MIT; dataset: Cityscapes terms"
    monkeypatch.setenv("RANK", "1")
    assert "licences" not in call("weights", "fetch", FOREIGN).err
    monkeypatch.setenv("RANK", "0")
    tsz.create_model(FOREIGN)  # the first rank comes late, and hears it all the same
    assert capsys.readouterr().err.count(said) == 1
    tsz.create_model(FOREIGN)
    assert "licences" not in capsys.readouterr().err
    assert "licences" not in call("weights", "fetch", FOREIGN, "--convert").err
    assert site.count("/x39.pth") == 1
    # New terms are news.
    record = real(FOREIGN, licenses={"code": "MIT", "weights": "MIT", "dataset": "MIT"})
    record["sources"] = [{"kind": "https", "location": site.url + "/x39.pth"}]
    declare([record], tmp_path, monkeypatch)
    assert "weights: MIT; code: MIT" in call("weights", "fetch", FOREIGN).err


def test_one_that_cannot_be_had_does_not_stop_the_others(
    call: Call, site: Server, cache: Path
) -> None:
    site.add("/p.pth", lambda request: request.answer(404, b"gone"))
    done = call("weights", "fetch", PREFIX, FULL)
    assert done.code == 3
    assert [line.split()[0] for line in done.out.splitlines()] == [FULL]
    assert f"torchseg-zoo: {PREFIX}: DownloadError: {site.url}/p.pth: " in done.err
    assert done.err.endswith("torchseg-zoo: 1 of 2 checkpoints failed\n")
    assert_failed(call("weights", "fetch", PREFIX), DownloadError, "/p.pth", "weights import FILE")
    site.file("/p.pth", DATA[FULL])
    assert_failed(call("weights", "fetch", PREFIX), IntegrityError, digest(DATA[PREFIX])[:8])
    assert blobs(cache) == {digest(DATA[FULL])}


def test_fetch_wants_names_or_all(call: Call, site: Server) -> None:
    for verb in (("fetch",), ("mirror", "--to", "x")):
        assert_failed(call("weights", *verb), ArgumentError, "names or --all")
        assert_failed(call("weights", *verb, "--all", FULL), ArgumentError, "names or --all")
        assert_failed(call("weights", *verb, "pspnet_r101"), UnknownCheckpointError, "pspnet_r101")
        assert_failed(call("weights", *verb, "nothing*"), UnknownCheckpointError, "nothing*")


# Verifying


def forge(cache: Path, sha256: str) -> None:
    """Flips a bit, and makes the stamp say that this is what was verified: rot on the disk."""
    path = cache / "blobs" / sha256
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    with path.open("r+b") as file:
        file.write(data)
    status = path.stat()
    stamp = cache / "stamps" / sha256
    record = json.loads(stamp.read_text())
    record["stat"] |= {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    stamp.write_text(json.dumps(record))


def test_verify_finds_what_the_stamps_hide_and_fetch_mends_it(
    call: Call, site: Server, cache: Path
) -> None:
    assert call("weights", "verify", FULL).code == 3
    call("weights", "fetch", FULL, PREFIX)
    done = call("weights", "verify")
    assert done.code == 0
    assert [line.split()[:3] for line in done.out.splitlines()] == [
        ["whole", EMBEDDED, "embedded"],
        *(["whole", name, "download"] for _, name in sorted((digest(DATA[n]), n) for n in DATA)),
    ]
    sha256 = digest(DATA[FULL])
    forge(cache, sha256)
    # The stamp hides it from a look-up, which is what makes look-ups cheap.
    assert call("weights", "fetch", FULL).code == 0 and site.count("/f.pth") == 1
    done = call("weights", "verify")
    assert_failed(done, IntegrityError, "1 of 3 files are damaged")
    damaged = [line for line in done.out.splitlines() if line.startswith("damaged")]
    assert len(damaged) == 1 and FULL in damaged[0] and sha256 in damaged[0]
    assert f"run: torchseg-zoo weights fetch {FULL}" in done.out
    assert call("weights", "verify", PREFIX).code == 0
    done = call("weights", "fetch", FULL)
    assert done.code == 0 and "is damaged; fetching it again" in done.err
    assert (cache / "blobs" / sha256).read_bytes() == DATA[FULL]
    assert call("weights", "verify").code == 0
    done = call("weights", "verify", FULL, DRIVE)
    assert done.code == 3 and f"{DRIVE} is not here; weights fetch {DRIVE}" in done.err


def test_verify_names_a_cut_file_and_what_was_planted(
    call: Call, site: Server, cache: Path
) -> None:
    call("weights", "fetch", FULL, PREFIX)
    path = cache / "blobs" / digest(DATA[FULL])
    path.write_bytes(DATA[FULL][:-1])
    other = cache / "blobs" / digest(DATA[PREFIX])
    other.unlink()
    other.symlink_to("/etc/passwd")
    done = call("weights", "verify")
    assert_failed(done, IntegrityError, "2 of 3 files")
    assert "is a link" in done.out and digest(DATA[FULL][:-1]) in done.out


def test_a_damaged_converted_file_is_told_and_made_again(
    call: Call, site: Server, cache: Path
) -> None:
    tsz.create_model(FOREIGN)
    gc.collect()
    (native,) = blobs(cache) - {hashlib.sha256((cache / "blobs" / name).read_bytes()).hexdigest()
                                for name in blobs(cache) if name in source_of(cache)}  # fmt: skip
    forge(cache, native)
    done = call("weights", "verify", FOREIGN)
    assert_failed(done, IntegrityError, "1 of 2 files")
    assert "converted" in done.out and "converts it anew" in done.out
    tsz.create_model(FOREIGN)
    assert call("weights", "verify", FOREIGN).code == 0
    assert site.count("/x39.pth") == 1


def source_of(cache: Path) -> set[str]:
    with released.Cache(cache) as opened:
        return {released.source_digest(opened, manifest.load()[FOREIGN])}


# Importing


def test_a_file_fetched_by_hand_is_recognised_by_digest_or_name(
    call: Call, site: Server, cache: Path, tmp_path: Path, foreign_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "download").write_bytes(DATA[PREFIX])
    done = call("weights", "import", tmp_path / "download")
    assert done.code == 0 and done.out.startswith(f"{PREFIX}  sha256 {digest(DATA[PREFIX])}")
    assert done.err.count(" licences: ") == 1
    again = tmp_path / "x39 (1).pth"
    shutil.copy(foreign_file, again)
    assert call("weights", "import", again).out.startswith(f"{FOREIGN}  sha256")
    assert len(site.log) == 0
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert call("weights", "fetch", PREFIX, FOREIGN).code == 0
    assert tsz.create_model(FOREIGN).num_classes == 19


def test_files_that_are_not_what_they_seem(
    call: Call, site: Server, cache: Path, tmp_path: Path
) -> None:
    named = tmp_path / "f.pth"
    named.write_bytes(DATA[FULL][:-1] + b"x")
    done = call("weights", "import", named)
    assert_failed(done, IntegrityError, "f.pth", digest(DATA[FULL]), "get the file from its source")
    page = tmp_path / "p.pth"
    page.write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    assert_failed(call("weights", "import", page), DownloadError, "login page")
    # Nothing is published of this one: it is read before it is believed, and pinned.
    wrong = tmp_path / "x39.pth"
    wrong.write_bytes(content(5000))
    assert_failed(call("weights", "import", wrong), CheckpointFormatError, f"is not {FOREIGN}")
    unknown = tmp_path / "model.pth"
    unknown.write_bytes(content(999, 9))
    done = call("weights", "import", unknown)
    assert_failed(done, ArgumentError, "model.pth", "not recognised", "--as MODEL.TAG")
    done = call("weights", "import", unknown, "--as", DRIVE)
    assert_failed(done, CheckpointFormatError, f"is not {DRIVE}")
    done = call("weights", "import", unknown, "--as", FULL)
    assert_failed(done, IntegrityError, digest(DATA[FULL]))
    assert_failed(call("weights", "import", unknown, "--as", "dfn_r101"), CheckpointFormatError)
    done = call("weights", "import", unknown, "--as", EMBEDDED)
    assert_failed(done, ArgumentError, "comes with the package")
    assert_failed(call("weights", "import", unknown, "--as", "bisenet_x39"), ArgumentError, "tag")
    assert_failed(call("weights", "import", tmp_path / "none"), DataError, "no such file")
    for folder in ("blobs", "pins", "partial"):
        assert not (cache / folder).exists() or not any((cache / folder).iterdir())


def test_a_name_that_several_checkpoints_have(
    call: Call, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [e["model"] + "." + e["tag"] for e in REAL["checkpoints"] if e["layout"] == "mmseg"][:8]
    source = {"kind": "https", "location": "https://example.org/model.pth"}
    records = [real(name, sha256="", sources=[source]) for name in names]
    declare(records, tmp_path, monkeypatch)
    (tmp_path / "model.pth").write_bytes(content(99))
    done = call("weights", "import", tmp_path / "model.pth")
    assert_failed(done, ArgumentError, f"may be {names[0]} or ", "3 more", "--as MODEL.TAG")


def test_a_drive_file_is_imported_by_saying_which_it_is(
    call: Call, site: Server, cache: Path, tmp_path: Path, foreign_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    declare([real(FOREIGN)], tmp_path, monkeypatch)  # as released: on Google Drive
    assert_failed(call("weights", "import", foreign_file), ArgumentError, "--as MODEL.TAG")
    assert call("weights", "import", foreign_file, "--as", FOREIGN).code == 0
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert tsz.create_model(FOREIGN).num_classes == 19


# Mirrors


def served(mirror: Path, server: Server) -> str:
    """The folder behind a web server; its address."""
    for path in mirror.iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o044 == 0o044, "a web server is another user"
            server.file(f"/mirror/{path.name}", path.read_bytes())
    return f"{server.url}/mirror"


def test_a_mirror_makes_a_site_usable_offline(
    call: Call, site: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "my mirror"
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, EMBEDDED, "--to", mirror)
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[:3]] == [
        ["fetched", name] for name in (FULL, PREFIX, FOREIGN)
    ]
    assert done.out.splitlines()[3] == (
        f"to use it: export TORCHSEG_ZOO_MIRROR=file://{tmp_path}/my%20mirror"
    )
    assert not cache.exists() or not (cache / "blobs").exists() or blobs(cache) == set()
    assert {path.name for path in mirror.iterdir()} >= {"SHA256SUMS", digest(DATA[FULL])}
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=mirror, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 3, checked.stderr
    assert f"# {FULL} licences: weights: Apache-2.0" in (mirror / "SHA256SUMS").read_text()

    asked = len(site.log)
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 0 and len(site.log) == asked
    assert all(line.startswith("kept") for line in done.out.splitlines()[:3])

    url = served(mirror, site)
    for where, offline in ((mirror.as_uri(), "1"), (url, "")):
        shutil.rmtree(cache, ignore_errors=True)
        monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", where)
        monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", offline)
        done = call("weights", "fetch", FULL, PREFIX, FOREIGN)
        assert done.code == 0, done.err
        assert len(blobs(cache)) == 3
    assert not [path for _, path, _ in site.log[asked:] if not path.startswith("/mirror/")]


def test_a_damaged_file_of_a_mirror_is_fetched_again(
    call: Call, site: Server, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    files = [path for path in mirror.iterdir() if path.name != "SHA256SUMS"]
    before = {path: path.read_bytes() for path in files}
    for path in files:
        with path.open("r+b") as file:
            file.write(b"\0")
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 0 and done.out.count("fetched") == 3
    assert done.err.count("is damaged; fetching it again") == 3
    assert {path: path.read_bytes() for path in files} == before
    # A source that gives another file by now does not get into a mirror that has the old one.
    next(path for path in files if path.name.startswith("url-")).write_bytes(b"")
    site.file("/p.pth", content(4000, 5))
    site.file("/x39.pth", content(4000, 5))
    done = call("weights", "mirror", PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 3 and "IntegrityError" in done.err


def test_an_interrupted_mirror_goes_on_and_unreachable_sources_are_named(
    call: Call, site: Server, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    ranges: list[str] = []

    def cut(request: Request) -> None:
        ranges.append(request.headers.get("Range", ""))
        request.serve(DATA[PREFIX], cut_after=0 if ranges[-1] else 3 << 19)

    site.add("/p.pth", cut)
    done = call("weights", "mirror", PREFIX, FULL, "--to", mirror)
    assert done.code == 3
    assert f"torchseg-zoo: {PREFIX}: DownloadError: {site.url}/p.pth" in done.err
    assert [line.split()[:2] for line in done.out.splitlines()[:-1]] == [["fetched", FULL]]
    names = {path.name for path in mirror.iterdir() if not path.name.startswith(".")}
    assert names == {digest(DATA[FULL]), "SHA256SUMS"}
    site.file("/p.pth", DATA[PREFIX])
    first = len(site.log)
    done = call("weights", "mirror", PREFIX, FULL, "--to", mirror)
    assert done.code == 0
    assert [headers.get("Range") for _, _, headers in site.log[first:]] == [f"bytes={3 << 19}-"]
    assert not (mirror / ".incoming").exists()


def test_a_mirror_takes_what_the_cache_has(call: Call, site: Server, tmp_path: Path) -> None:
    call("weights", "fetch", FULL, FOREIGN)
    asked = len(site.log)
    assert call("weights", "mirror", FULL, FOREIGN, "--to", tmp_path / "mirror").code == 0
    assert len(site.log) == asked and call("weights", "verify", FULL, FOREIGN).code == 0


def test_a_mirror_believes_what_was_fetched_before(
    call: Call, site: Server, cache: Path, tmp_path: Path
) -> None:
    call("weights", "fetch", FOREIGN)
    for name in blobs(cache):
        (cache / "blobs" / name).unlink()
    site.file("/x39.pth", content(4000, 5))
    done = call("weights", "mirror", FOREIGN, "--to", tmp_path / "mirror")
    assert_failed(done, IntegrityError, "/x39.pth")
    assert not (tmp_path / "mirror" / "SHA256SUMS").exists()


def test_folders_that_cannot_be_mirrors(call: Call, site: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("weights", "mirror", FULL, "--to", tmp_path / "file")
    assert_failed(done, DataError, "cannot create the folder")
    mirror = tmp_path / "mirror"
    (mirror / ".incoming").mkdir(parents=True)
    with (mirror / ".incoming" / "lock").open("w") as file:
        assert try_flock(file.fileno())
        done = call("weights", "mirror", FULL, "--to", mirror)
        assert_failed(done, CacheError, "another process is filling this mirror")
    assert call("weights", "mirror", FULL, "--to", mirror).code == 0


# Pruning


def test_prune_leaves_whole_files_and_a_running_download_alone(
    call: Call, site: Server, cache: Path
) -> None:
    call("weights", "fetch", FULL)
    slow = content(3 << 20, 7)
    url = site.file("/slow", slow, rate=3e6)
    code = f"from torchseg_zoo.weights import fetch; print(fetch.fetch({url!r}, progress=False))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        partial = cache / "partial"
        until = time.monotonic() + 30
        while not any(path.stat().st_size > 100_000 for path in partial.glob("*.part")):
            assert time.monotonic() < until
            time.sleep(0.01)
        for path in cache.rglob("*"):
            age(path)
        done = call("weights", "prune")
        assert done == Done(0, "removed 0 files, 0 bytes (0.0 MB)\n", "")
        assert list(partial.glob("*.part"))
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert Path(out.strip()).read_bytes() == slow
    assert blobs(cache) == {digest(slow), digest(DATA[FULL])}


def test_prune_removes_what_a_killed_download_has_left(
    call: Call, site: Server, cache: Path
) -> None:
    data = content(3 << 20, 8)
    url = site.file("/killed", data, rate=3e6)
    code = f"from torchseg_zoo.weights import fetch; fetch.fetch({url!r}, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    partial = cache / "partial"
    until = time.monotonic() + 30
    while not any(path.stat().st_size > 100_000 for path in partial.glob("*.part")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    (left,) = partial.glob("*.part")
    size = sum(path.stat().st_size for path in partial.iterdir())
    done = call("weights", "prune", "--dry-run")
    assert f"would remove  {left.stat().st_size / 1e6:.1f} MB  {left}" in done.out
    assert f"would remove 2 files, {size} bytes" in done.out and left.exists()
    done = call("weights", "prune")
    assert f"removed 2 files, {size} bytes" in done.out
    assert list(partial.iterdir()) == []
    assert call("weights", "prune").out == "removed 0 files, 0 bytes (0.0 MB)\n"


def test_prune_removes_old_conversions_and_keeps_pins(
    call: Call, site: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(released, "__version__", "0.0.1")
        model = tsz.create_model(FOREIGN)
    (source,) = source_of(cache)
    (old,) = blobs(cache) - {source}
    size = (cache / "blobs" / old).stat().st_size
    for path in (cache / "blobs").iterdir():
        age(path)
    assert call("weights", "prune").out.startswith("removed 0 files"), "a process has it mapped"
    del model
    gc.collect()
    assert f"would remove 1 files, {size} bytes" in call("weights", "prune", "--dry-run").out
    done = call("weights", "prune")
    assert f"removed 1 files, {size} bytes" in done.out and "by another version" in done.out
    assert blobs(cache) == {source}

    assert tsz.create_model(FOREIGN).num_classes == 19
    gc.collect()
    assert site.count("/x39.pth") == 1
    for path in (cache / "blobs").iterdir():
        age(path)
    assert call("weights", "prune").out.startswith("removed 0 files")
    done = call("weights", "prune", "--downloads")
    assert "whose converted form is here" in done.out and source not in blobs(cache)
    # The pin stays, and so does what is read.
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert tsz.create_model(FOREIGN).num_classes == 19
    monkeypatch.delenv("TORCHSEG_ZOO_OFFLINE")
    site.file("/x39.pth", content(5000))
    assert_failed(call("weights", "fetch", FOREIGN), IntegrityError, "pinned at the first fetch")


def test_prune_of_what_nobody_has_read(call: Call, site: Server, cache: Path) -> None:
    call("weights", "fetch", FULL, PREFIX)
    age(cache / "blobs" / digest(DATA[FULL]), 40 * 86400)
    age(cache / "blobs" / digest(DATA[PREFIX]), 20 * 86400)
    assert "not read for 40 days" in call("weights", "prune", "--unused", "30", "--dry-run").out
    assert call("weights", "prune").out.startswith("removed 0 files")
    call("weights", "prune", "--unused", "30")
    assert blobs(cache) == {digest(DATA[PREFIX])}
    for days in ("-1", "nan"):
        assert_failed(call("weights", "prune", "--unused", days), ArgumentError, "--unused")
    assert call("weights", "prune", "--unused", "many").code == 2


def test_an_empty_cache_is_left_as_it_is(call: Call, site: Server, cache: Path) -> None:
    assert call("weights", "prune").out == "removed 0 files, 0 bytes (0.0 MB)\n"
    assert call("weights", "verify").code == 0
    assert not cache.exists()
