"""``torchseg-zoo weights fetch``, ``verify`` and ``import``: the files that come into the cache."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import pytest
from cache_folder import blobs
from commands import Call, assert_failed
from loopback import Server, content, digest
from weights_site import (
    DATA,
    DRIVE,
    EMBEDDED,
    FOREIGN,
    FULL,
    PREFIX,
    REAL,
    Declare,
    real,
    source_of,
)

import torchseg_zoo as tsz
from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DataError,
    DownloadError,
    IntegrityError,
    UnknownCheckpointError,
)


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
    call: Call, site: Server, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, declare: Declare,
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
    declare([record])
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
    (native,) = blobs(cache) - {source_of(cache)}
    forge(cache, native)
    done = call("weights", "verify", FOREIGN)
    assert_failed(done, IntegrityError, "1 of 2 files")
    assert "converted" in done.out and "converts it anew" in done.out
    tsz.create_model(FOREIGN)
    assert call("weights", "verify", FOREIGN).code == 0
    assert site.count("/x39.pth") == 1


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
    call: Call, cache: Path, tmp_path: Path, declare: Declare
) -> None:
    names = [e["model"] + "." + e["tag"] for e in REAL["checkpoints"] if e["layout"] == "mmseg"][:8]
    source = {"kind": "https", "location": "https://example.org/model.pth"}
    records = [real(name, sha256="", sources=[source]) for name in names]
    declare(records)
    (tmp_path / "model.pth").write_bytes(content(99))
    done = call("weights", "import", tmp_path / "model.pth")
    assert_failed(done, ArgumentError, f"may be {names[0]} or ", "3 more", "--as MODEL.TAG")


def test_a_drive_file_is_imported_by_saying_which_it_is(
    call: Call, site: Server, foreign_file: Path, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare([real(FOREIGN)])  # as released: on Google Drive
    assert_failed(call("weights", "import", foreign_file), ArgumentError, "--as MODEL.TAG")
    assert call("weights", "import", foreign_file, "--as", FOREIGN).code == 0
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert tsz.create_model(FOREIGN).num_classes == 19
