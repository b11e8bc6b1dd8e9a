"""The public surface: changing it is a decision, and gets a line in the changelog."""

from __future__ import annotations

import inspect
import re

import pytest
from checkout import CHECKOUT

import torchseg_zoo as tsz
from torchseg_zoo import registry

NAMES = [
    "LabelSet",
    "Prediction",
    "Predictor",
    "Preprocess",
    "SegmentationModel",
    "TrainConfig",
    "__version__",
    "calibrate",
    "create_model",
    "evaluate",
    "from_pretrained",
    "list_checkpoints",
    "list_models",
    "load_model",
    "model_from_state_dict",
    "predict",
    "register_model",
    "save_model",
    "summary",
    "train",
]

SIGNATURES = {
    "create_model": "(name: 'str', pretrained: 'str | None' = None, **options: 'Any')"
    " -> 'SegmentationModel'",
    "calibrate": "(model: 'SegmentationModel', dataset: 'Dataset', *, mode: 'Mode | None' = None,"
    " pixels: 'int' = 262144, progress: 'bool' = True) -> 'Calibration'",
    "evaluate": "(model: 'SegmentationModel', dataset: 'Dataset', *, mode: 'Mode | None' = None,"
    " label_size: 'Size | None' = None, boundary_share: 'float | None' = None,"
    " reliability: 'bool' = False, on_bad_sample: 'OnBadSample' = 'stop', fast: 'bool' = False,"
    " workers: 'Workers | Ranks | None' = None, record: 'str | os.PathLike[str] | None' = None,"
    " resume: 'bool' = False, save_labels: 'str | os.PathLike[str] | None' = None,"
    " save_pictures: 'str | os.PathLike[str] | None' = None,"
    " watch: 'Callable[[PictureScore, Scores], object] | None' = None,"
    " origin: 'Origin | None' = None, progress: 'bool' = True) -> 'Evaluation'",
    "from_pretrained": "(repo_or_folder: 'str | os.PathLike[str]', *,"
    " revision: 'str | None' = None, token: 'str | bool | None' = None,"
    " cache_dir: 'str | os.PathLike[str] | None' = None,"
    " local_files_only: 'bool' = False, force_download: 'bool' = False) -> 'SegmentationModel'",
    "list_checkpoints": "(model: 'str | None' = None) -> 'list[Checkpoint]'",
    "list_models": "(pattern: 'str' = '*', *, pretrained: 'bool' = False) -> 'list[str]'",
    "load_model": "(path: 'str | Path', *, layout: 'str | None' = None,"
    " config: 'Mapping[str, Any] | None' = None) -> 'SegmentationModel'",
    "model_from_state_dict": "(state_dict: 'Mapping[str, Any]', *, layout: 'str | None' = None,"
    " config: 'Mapping[str, Any] | None' = None) -> 'SegmentationModel'",
    "predict": "(model: 'SegmentationModel', image: 'object', *, mode: 'Mode | None' = None,"
    " confidence: 'Confidence' = 'probability') -> 'Prediction'",
    "register_model": "(factory: '_Factory') -> '_Factory'",
    "save_model": "(model: 'SegmentationModel', path: 'str | Path') -> 'None'",
    "summary": "(model: 'SegmentationModel', *, size: 'Size | None' = None) -> 'Summary'",
    "train": "(config: 'TrainConfig', *, train_set: 'Dataset | None' = None,"
    " val_set: 'Dataset | None' = None, resume: 'bool' = False, ranks: 'Ranks | None' = None,"
    " check: 'bool' = True, progress: 'bool' = True) -> 'TrainResult'",
}

# What every factory takes; a family may add keyword-only options of its own.
SHARED = {
    "pretrained": "pretrained: 'str | None' = None",
    "num_classes": "num_classes: 'int | None' = None",
    "in_channels": "in_channels: 'int' = 3",
    "pretrained_backbone": "pretrained_backbone: 'bool' = False",
}


def test_the_names() -> None:
    assert sorted(tsz.__all__) == sorted(NAMES)
    assert set(tsz.__all__) <= set(dir(tsz))
    for name in NAMES:
        assert getattr(tsz, name) is not None


def test_the_signatures() -> None:
    functions = {name for name in NAMES if inspect.isfunction(getattr(tsz, name))}
    assert functions == set(SIGNATURES)
    for name, signature in SIGNATURES.items():
        assert str(inspect.signature(getattr(tsz, name))) == signature, name


def test_the_changelog_tells_of_every_name() -> None:
    told = set(re.findall(r"`(\w+)", (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")))
    assert set(NAMES) - told == {"__version__"}


def test_everything_public_is_described() -> None:
    for name in NAMES:
        if name != "__version__":
            assert inspect.getdoc(getattr(tsz, name)), name


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'torchseg_zoo' has no attribute 'predikt'"):
        tsz.predikt  # noqa: B018


@pytest.mark.parametrize("name", sorted(registry._own_names()))
def test_every_factory_has_the_same_shape(name: str) -> None:
    factory = getattr(tsz, name)
    signature = inspect.signature(factory)
    first, *rest = signature.parameters.values()
    assert (first.name, first.kind) == ("pretrained", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert {one.kind for one in rest} == {inspect.Parameter.KEYWORD_ONLY}
    for key, text in SHARED.items():
        assert str(signature.parameters[key]) == text
    assert isinstance(signature.parameters["backbone"].default, str)
    assert inspect.getdoc(factory)
