"""``torchseg-zoo weights list`` and ``info``: what is known of each checkpoint, and its terms."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from commands import Call, assert_failed
from loopback import Server, digest
from weights_site import DATA, DRIVE, EMBEDDED, FOREIGN, FULL, PREFIX, real

from torchseg_zoo.errors import ArgumentError, UnknownCheckpointError, UnknownModelError
from torchseg_zoo.weights import manifest, terms
from torchseg_zoo.weights.manifest import Checkpoint


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
