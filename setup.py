"""Puts the top-level weights manifest into the built package; everything else is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MANIFEST = "weights_manifest.json"


class BuildWithManifest(build_py):
    """The manifest has one copy, beside the package; wheels carry it inside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copyfile(MANIFEST, Path(self.build_lib, "torchseg_zoo", MANIFEST))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        inside = str(Path(self.build_lib, "torchseg_zoo", MANIFEST))
        return [*super().get_outputs(include_bytecode), inside]


setup(cmdclass={"build_py": BuildWithManifest})
