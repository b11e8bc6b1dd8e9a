"""Everything that the zoo offers its own models, asked of models from outside.

python use_everything.py FOLDER
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DownloadError, ZooError
from torchseg_zoo.models.base import SegmentationModel

folder = Path(sys.argv[1])
SIZE = (64, 96)


def refusal(call: object, kind: type[ZooError]) -> str:
    """What a call says when it is refused."""
    try:
        call()  # type: ignore[operator]
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} was not refused")


def names_before_and_after() -> None:
    """Registering adds names, and takes none away."""
    ours = tsz.list_models()
    assert "bisenet_r18" in ours and not tsz.list_models("lite_*")
    import acme_seg

    assert tsz.list_models("lite_*") == ["lite_acme", "lite_r18"]
    assert set(tsz.list_models()) == {*ours, "lite_acme", "lite_r18"}
    assert tsz.lite_r18 is acme_seg.lite_r18 and "lite_r18" in dir(tsz)
    assert tsz.list_checkpoints("lite_r18") == []
    hub = torch.hub._load_local(str(Path(tsz.__file__).parents[1]), "lite_r18")
    assert isinstance(hub, acme_seg.Lite)


def models() -> dict[str, SegmentationModel]:
    """Both parts mixed with ours in every way, on a network that timm or we dilate or do not."""
    torch.manual_seed(0)
    return {
        "our backbone, their head": tsz.create_model(
            "lite_r18", backbone="test_resnet", num_classes=5, output_stride=8, width=8
        ),
        "both theirs": tsz.create_model("lite_acme", num_classes=5),
        "their backbone, BiSeNet": tsz.create_model("bisenet_r18", backbone="acmenet"),
        "their backbone, DFN": tsz.create_model("dfn_r101", backbone="acmenet", num_classes=2),
        "their backbone, PSPNet dilated": tsz.create_model("pspnet_r50", backbone="acmenet"),
    }


def creation_and_summary() -> None:
    for name, model in models().items():
        model.eval()
        counted = tsz.summary(model, size=SIZE)
        assert counted.gmacs > 0 and counted.parameters > counted.inference_parameters, name
        assert counted.parameters == sum(one.numel() for one in model.parameters())
        with torch.inference_mode():
            output = model(torch.randn(1, 3, *SIZE), with_aux=True)
        assert output.logits.shape == (1, model.num_classes, *SIZE)
        assert set(output.aux) == set(counted.aux_heads), name
        assert counted.strides == model.backbone.strides
    four = tsz.create_model("lite_r18", in_channels=4, backbone="test_resnet").eval()
    assert four(torch.randn(1, 4, 40, 40)).shape == (1, 19, 40, 40)
    said = refusal(lambda: tsz.create_model("lite_r18", num_classes=300), ArgumentError)
    assert "lite_r18" in said and "255" in said


def pretrained_backbones() -> None:
    """timm's own way to weights, loaded into the backbone alone; none to be had is an error."""
    import timm

    said = refusal(lambda: tsz.create_model("lite_acme", pretrained_backbone=True), DownloadError)
    assert "acmenet" in said and "pretrained_backbone=False" in said
    source = timm.create_model("acmenet").eval()
    torch.save(source.state_dict(), folder / "acmenet.pth")

    @timm.models.register_model
    def acmenet_own(pretrained: bool = False, **kwargs: object) -> nn.Module:
        kwargs["pretrained_cfg"] = {"file": str(folder / "acmenet.pth")}
        return timm.create_model("acmenet", pretrained=pretrained, **kwargs)  # type: ignore[no-any-return]

    for channels in (3, 1):
        model = tsz.create_model(
            "lite_acme", backbone="acmenet_own", pretrained_backbone=True, in_channels=channels
        )
        got, want = model.backbone.body.state_dict(), source.state_dict()
        first = want["stage0.down.weight"]
        if channels == 1:
            first = first.sum(1, keepdim=True)
        torch.testing.assert_close(got.pop("stage0.down.weight"), first)
        assert all(torch.equal(value, want[key]) for key, value in got.items())
    assert tsz.create_model("bisenet_r18", backbone="acmenet_own", pretrained_backbone=True)


def saving_and_loading() -> None:
    for index, (name, model) in enumerate(models().items()):
        model.eval()
        x = torch.randn(1, 3, *SIZE)
        path = folder / f"{index}.safetensors"
        tsz.save_model(model, path)
        loaded = [tsz.load_model(path)]
        if "both" in name:
            model.save_pretrained(folder / str(index))
            loaded.append(tsz.from_pretrained(folder / str(index)))
        for again in loaded:
            assert type(again) is type(model) and again.config == model.config, name
            with torch.inference_mode():
                assert torch.equal(again(x), model(x)), name
        said = refusal(lambda model=model: model.load_state_dict({}), CheckpointFormatError)
        assert "missing" in said
    five, seven = (tsz.create_model("lite_r18", num_classes=k) for k in (5, 7))
    said = refusal(lambda: five.load_state_dict(seven.state_dict()), CheckpointFormatError)
    assert "it is for lite_r18, 7 classes" in said


def fusing_and_new_classes() -> None:
    for name, model in models().items():
        model.reset_classifier(3)
        assert model.num_classes == model.labels.num_classes == 3
        model.eval()
        x = torch.randn(1, 3, *SIZE)
        with torch.inference_mode():
            before = model(x)
            after = model.fuse()(x)
        assert before.shape[1] == 3
        assert not [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)] or (
            "DFN" in name or "PSPNet" in name
        ), name
        assert float((after - before).abs().max()) <= 1e-4 * float(before.std()), name
        assert "fused" in refusal(model.train, ArgumentError)


def prediction_and_training() -> None:
    streets = DrawnStreets(4, size=SIZE)
    model = tsz.create_model("lite_acme", num_classes=11)
    assert tsz.predict(model, streets[0].image).labels.shape == SIZE
    config = tsz.TrainConfig(
        model="lite_acme", out=str(folder / "run"), epochs=1, batch_size=2, crop=(64, 64),
        criterion="ohem", device="cpu",
    )  # fmt: skip
    result = tsz.train(config, train_set=streets, val_set=streets, progress=False)
    best = tsz.load_model(result.best)
    assert best.config.model == "lite_acme" and best.num_classes == 11
    scores = tsz.evaluate(best, streets, progress=False)
    assert abs(scores.miou_percent - result.miou_percent) < 1e-3


def exporting() -> None:
    side = torch.export.Dim
    sizes = {2: 32 * side("h", min=2, max=64), 3: 32 * side("w", min=2, max=64)}
    for name, model in models().items():
        if "both" not in name and "PSPNet" not in name:
            continue
        model.eval()
        with torch.no_grad():
            program = torch.export.export(
                model, (torch.randn(1, 3, *SIZE),), dynamic_shapes=(sizes,)
            )
        other = torch.randn(1, 3, 96, 160)
        with torch.inference_mode():
            torch.testing.assert_close(
                program.module()(other), model(other), atol=1e-5, rtol=1e-4, msg=name
            )


def names_that_are_taken() -> None:
    """A family's name stands in files: two of one name could not be told apart."""

    def second() -> None:
        type("FCN", (SegmentationModel,), {"__module__": "acme_seg.other"})

    assert "FCN" in refusal(second, ArgumentError)
    fcn = tsz.create_model("fcn_r18", num_classes=3)
    tsz.save_model(fcn, folder / "fcn.safetensors")
    assert type(tsz.load_model(folder / "fcn.safetensors")) is type(fcn)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for step in (
        names_before_and_after,
        creation_and_summary,
        pretrained_backbones,
        saving_and_loading,
        fusing_and_new_classes,
        prediction_and_training,
        exporting,
        names_that_are_taken,
    ):
        step()
        print(step.__name__, flush=True)
