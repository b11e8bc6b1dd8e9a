"""A head and a backbone from another package get all that ours get, without a change here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).with_name("outside_package")


def test_everything_works_from_outside(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PACKAGE / "use_everything.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "names_before_and_after",
        "creation_and_summary",
        "pretrained_backbones",
        "saving_and_loading",
        "fusing_and_new_classes",
        "prediction_and_training",
        "exporting",
        "names_that_are_taken",
    ]


def test_a_model_file_from_outside_says_what_to_import(tmp_path: Path) -> None:
    script = (
        "import sys, acme_seg, torchseg_zoo as tsz\n"
        "tsz.save_model(tsz.create_model('lite_acme'), sys.argv[1])\n"
    )
    load = "import sys, torchseg_zoo as tsz\ntsz.load_model(sys.argv[1])\n"
    file = str(tmp_path / "lite.safetensors")
    for code, path in ((script, str(PACKAGE)), (load, "")):
        done = subprocess.run(
            [sys.executable, "-c", code, file],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointFormatError: no model family 'Lite'; import the module that defines" in last
