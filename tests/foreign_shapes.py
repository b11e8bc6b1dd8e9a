"""Names and shapes of the tensors in other projects' files, written from their descriptions.

Nothing here knows our converters or configurations: what decides is the model's name, the number of
classes and the tag. ``test_manifest_entries`` proves each layout on the golden files first.
"""

from __future__ import annotations

from collections.abc import Callable

Shape = tuple[int, ...]

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
DENSE = {  # growth, stem, layers of each block
    121: (32, 64, (6, 12, 24, 16)),
    161: (48, 96, (6, 12, 36, 24)),
}


class Tensors(dict[str, Shape]):
    """Collects tensors by name.

    Args:
        counts: whether batch norms have ``num_batches_tracked``; PyTorch before 0.4.1 had none.
    """

    def __init__(self, *, counts: bool = True) -> None:
        super().__init__()
        self.counts = counts

    def conv(self, name: str, cin: int, cout: int, k: int = 1, *, bias: bool = False) -> None:
        self[f"{name}.weight"] = (cout, cin, k, k)
        if bias:
            self[f"{name}.bias"] = (cout,)

    def linear(self, name: str, cin: int, cout: int) -> None:
        self[f"{name}.weight"] = (cout, cin)
        self[f"{name}.bias"] = (cout,)

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.{part}"] = (channels,)
        if self.counts:
            self[f"{name}.num_batches_tracked"] = ()

    def module(self, name: str, cin: int, cout: int, k: int = 1) -> None:
        """A convolution and its norm, as TorchSeg and mmsegmentation name them."""
        self.conv(f"{name}.conv", cin, cout, k)
        self.norm(f"{name}.bn", cout)

    def pair(self, name: str, first: int, cin: int, cout: int, k: int = 1) -> None:
        """A convolution and its norm, one behind the other in a sequence."""
        self.conv(f"{name}.{first}", cin, cout, k)
        self.norm(f"{name}.{first + 1}", cout)

    def resnet(self, prefix: str, depth: int, stem: str) -> None:
        """A ResNet. Stems: ``7x7``, ``timm`` and ``seq32`` (one sequence), ``openseg``."""
        if stem == "7x7":
            self.conv(f"{prefix}conv1", 3, 64, 7)
            self.norm(f"{prefix}bn1", 64)
            width = 64
        else:
            narrow = 32 if stem == "seq32" else 64
            names = {
                "timm": ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"),
                "seq32": tuple(f"stem.{index}" for index in (0, 1, 3, 4, 6, 7)),
                "openseg": tuple(
                    f"resinit.{kind}{index}" for index in (1, 2, 3) for kind in ("conv", "bn")
                ),
            }[stem]
            width = 2 * narrow
            widths = (3, narrow, narrow, width)
            for index in range(3):
                self.conv(f"{prefix}{names[2 * index]}", widths[index], widths[index + 1], 3)
                self.norm(f"{prefix}{names[2 * index + 1]}", widths[index + 1])
        grow = 1 if depth == 18 else 4
        for stage, blocks in enumerate(STAGES[depth]):
            inner = 64 << stage
            for index in range(blocks):
                block = f"{prefix}layer{stage + 1}.{index}"
                kernels = (3, 3) if grow == 1 else (1, 3, 1)
                cin = width
                for part, kernel in enumerate(kernels, 1):
                    cout = inner * grow if part == len(kernels) else inner
                    self.conv(f"{block}.conv{part}", cin, cout, kernel)
                    self.norm(f"{block}.bn{part}", cout)
                    cin = cout
                if index == 0 and (stage or width != inner * grow):
                    self.pair(f"{block}.downsample", 0, width, inner * grow)
                width = inner * grow


def _depth(model: str) -> int:
    return int(model.split("_")[-1].removeprefix("r"))


# TorchSeg


def torchseg(model: str, classes: int, tag: str) -> Tensors:
    family = model.split("_")[0]
    out = Tensors()
    if family == "bisenet":
        _bisenet(out, model, classes)
        return out
    depth = _depth(model)
    out.resnet("backbone.", depth, "timm")
    if family == "fcn32s":
        for head, cin in (("head", 2048), ("aux_head", 1024)):
            out.module(f"{head}.cbr", cin, cin // 4, 3)
            out.conv(f"{head}.conv1x1", cin // 4, classes, bias=True)
    elif family == "dfn":
        _dfn(out, classes)
    else:
        layer = "psp_layer" if family == "pspnet" else "psa_layer"
        if family == "pspnet":
            for level in range(4):
                out.module(f"{layer}.ppm.{level}.psp/cbr", 2048, 512)
        else:
            for branch in ("collect", "distribute"):
                out.module(f"{layer}.{branch}_reduction", 2048, 512)
                out.module(f"{layer}.{branch}_attention.0", 512, 512)
                out.conv(f"{layer}.{branch}_attention.1.conv", 512, 3600)
            out.module(f"{layer}.proj", 1024, 2048)
        for name, cin, width in ((f"{layer}.conv6", 4096, 512), ("aux_layer", 1024, 1024)):
            out.module(f"{name}.0", cin, width, 3)
            out.conv(f"{name}.2", width, classes, bias=True)
    return out


def _bisenet(out: Tensors, model: str, classes: int) -> None:
    variant = model.removeprefix("bisenet_")
    if variant.startswith("x39"):
        deep, middle = 256, 128
        _xception39(out, "context_path.")
    else:
        depth = int(variant.removesuffix("_speed").removeprefix("r"))
        out.resnet("context_path.", depth, "7x7" if depth == 18 else "timm")
        deep, middle = (512, 256) if depth == 18 else (2048, 1024)
    aux = 128 if variant in ("x39", "x39_speed", "r18_speed") else 256
    main = 256 if variant == "r101" else 64
    for name, cin, cout, k in (
        ("conv_7x7", 3, 64, 7), ("conv_3x3_1", 64, 64, 3),
        ("conv_3x3_2", 64, 64, 3), ("conv_1x1", 64, 128, 1),
    ):  # fmt: skip
        out.module(f"spatial_path.{name}", cin, cout, k)
    out.module("global_context.1", deep, 128)
    for index, cin in enumerate((deep, middle)):
        out.module(f"arms.{index}.conv_3x3", cin, 128, 3)
        out.module(f"arms.{index}.channel_attention.1", 128, 128)
        out.module(f"refines.{index}", 128, 128, 3)
    out.module("ffm.conv_1x1", 256, 256)
    out.conv("ffm.channel_attention.1.conv", 256, 256)
    out.conv("ffm.channel_attention.2.conv", 256, 256)
    for index, (cin, width) in enumerate(((128, aux), (128, aux), (256, main))):
        out.module(f"heads.{index}.conv_3x3", cin, width, 3)
        out.conv(f"heads.{index}.conv_1x1", width, classes, bias=True)


def _xception39(out: Tensors, prefix: str) -> None:
    def separable(name: str, cin: int, cout: int) -> None:
        out[f"{name}.conv1.weight"] = (cin, 1, 3, 3)
        out.module(f"{name}.point_wise_cbr", cin, cout)

    out.module(f"{prefix}conv1", 3, 8, 3)
    width = 8
    for stage, (inner, blocks) in enumerate(((16, 4), (32, 8), (64, 4)), 1):
        for index in range(blocks):
            block = f"{prefix}layer{stage}.{index}"
            if index == 0:
                separable(f"{block}.proj", width, 4 * inner)
            for part, (cin, cout) in enumerate(
                ((width, inner), (inner, inner), (inner, 4 * inner))
            ):
                separable(f"{block}.residual_branch.{part}", cin, cout)
            width = 4 * inner


def _dfn(out: Tensors, classes: int) -> None:
    def residual(name: str, cin: int, width: int) -> None:
        out.conv(f"{name}.conv_1x1", cin, width)
        out.module(f"{name}.cbr", width, width, 3)
        out.conv(f"{name}.conv_refine", width, width, 3)

    channels = (256, 512, 1024, 2048)
    out.module("global_context.1", 2048, 512)
    for index in range(4):
        residual(f"smooth_pre_rrbs.{index}", channels[3 - index], 512)
        out.linear(f"cabs.{index}.channel_attention.fc.0", 1024, 512)
        out.linear(f"cabs.{index}.channel_attention.fc.2", 512, 512)
        residual(f"smooth_aft_rrbs.{index}", 512, 512)
        residual(f"smooth_heads.{index}.rrb", 512, 9 * classes)
        out.conv(f"smooth_heads.{index}.conv", 9 * classes, classes, bias=True)
        residual(f"border_pre_rrbs.{index}", channels[index], 21)
        residual(f"border_aft_rrbs.{index}", 21, 21)
        residual(f"border_heads.{index}.rrb", 21, 9)
        out.conv(f"border_heads.{index}.conv", 9, 1, bias=True)


# mmsegmentation


def mmseg(model: str, classes: int, tag: str) -> Tensors:
    family = model.rpartition("_")[0]
    depth = _depth(model)
    out = Tensors()
    if family == "bisenet":
        _bisenetv1(out, depth, classes)
        return out
    words = tag.partition(".")[2].split("-")
    plain_stem = "b" in words or "rsb" in words
    out.resnet("backbone.", depth, "7x7" if plain_stem else "seq32")
    deep, width, aux, low = (512, 128, 64, 12) if depth == 18 else (2048, 512, 256, 48)
    out.module("auxiliary_head.convs.0", deep // 2, aux, 3)
    out.conv("auxiliary_head.conv_seg", aux, classes, bias=True)
    out.conv("decode_head.conv_seg", width, classes, bias=True)
    _MMSEG[family](out, "decode_head", deep, width)
    if family == "deeplabv3plus":
        out.module("decode_head.c1_bottleneck", deep // 8, low)
        _separable(out, "decode_head.sep_bottleneck.0", width + low, width)
        _separable(out, "decode_head.sep_bottleneck.1", width, width)
    if family == "encnet":
        out.linear("decode_head.se_layer", 512, classes)
    if family == "psanet":
        mask = 66**2 if tag.startswith("ade20k") else 97**2
        for suffix in ("", "_p"):
            out.conv(f"decode_head.attention{suffix}.1", 512, mask)
    return out


def _fcn(out: Tensors, head: str, deep: int, width: int) -> None:
    out.module(f"{head}.convs.0", deep, width, 3)
    out.module(f"{head}.convs.1", width, width, 3)
    out.module(f"{head}.conv_cat", deep + width, width, 3)


def _pspnet(out: Tensors, head: str, deep: int, width: int) -> None:
    for level in range(4):
        out.module(f"{head}.psp_modules.{level}.1", deep, width)
    out.module(f"{head}.bottleneck", deep + 4 * width, width, 3)


def _psanet(out: Tensors, head: str, deep: int, width: int) -> None:
    for suffix in ("", "_p"):
        out.module(f"{head}.reduce{suffix}", deep, width)
        out.module(f"{head}.attention{suffix}.0", width, width)
    out.module(f"{head}.proj", 2 * width, deep)
    out.module(f"{head}.bottleneck", 2 * deep, width, 3)


def _separable(out: Tensors, name: str, cin: int, cout: int) -> None:
    out.module(f"{name}.depthwise_conv", 1, cin, 3)
    out.module(f"{name}.pointwise_conv", cin, cout)


def _aspp(out: Tensors, head: str, deep: int, width: int) -> None:
    out.module(f"{head}.image_pool.1", deep, width)
    out.module(f"{head}.aspp_modules.0", deep, width)
    for index in (1, 2, 3):
        out.module(f"{head}.aspp_modules.{index}", deep, width, 3)
    out.module(f"{head}.bottleneck", 5 * width, width, 3)


def _separable_aspp(out: Tensors, head: str, deep: int, width: int) -> None:
    out.module(f"{head}.image_pool.1", deep, width)
    out.module(f"{head}.aspp_modules.0", deep, width)
    for index in (1, 2, 3):
        _separable(out, f"{head}.aspp_modules.{index}", deep, width)
    out.module(f"{head}.bottleneck", 5 * width, width, 3)


def _encnet(out: Tensors, head: str, deep: int, width: int) -> None:
    out.module(f"{head}.bottleneck", deep, width, 3)
    encoder = f"{head}.enc_module"
    out.module(f"{encoder}.encoding_project", width, width)
    out[f"{encoder}.encoding.0.codewords"] = (32, width)
    out[f"{encoder}.encoding.0.scale"] = (32,)
    out.norm(f"{encoder}.encoding.1", 32)
    out.linear(f"{encoder}.fc.0", width, width)


def _isanet(out: Tensors, head: str, deep: int, width: int) -> None:
    out.module(f"{head}.in_conv", deep, width, 3)
    for relation in ("global_relation", "local_relation"):
        for kind in ("key", "query"):
            out.module(f"{head}.{relation}.{kind}_project.0", width, 256)
            out.module(f"{head}.{relation}.{kind}_project.1", 256, 256)
        out.conv(f"{head}.{relation}.value_project", width, width, bias=True)
        out.module(f"{head}.{relation}.output_project", width, width)
    out.module(f"{head}.out_conv", 2 * width, width)


_MMSEG: dict[str, Callable[[Tensors, str, int, int], None]] = {
    "fcn": _fcn,
    "pspnet": _pspnet,
    "psanet": _psanet,
    "deeplabv3": _aspp,
    "deeplabv3plus": _separable_aspp,
    "encnet": _encnet,
    "ocnet_isa": _isanet,
}


def _bisenetv1(out: Tensors, depth: int, classes: int) -> None:
    wide = 1 if depth == 18 else 4
    width, spatial = 128 * wide, 64 * wide
    context = "backbone.context_path"
    out.resnet(f"{context}.backbone.", depth, "7x7")
    for name, cin in (("arm16", 256 * wide), ("arm32", 512 * wide)):
        out.module(f"{context}.{name}.conv_layer", cin, width, 3)
        out.module(f"{context}.{name}.atten_conv_layer.1", width, width)
    out.module(f"{context}.conv_head32", width, width, 3)
    out.module(f"{context}.conv_head16", width, width, 3)
    out.module(f"{context}.gap_conv.1", 512 * wide, width)
    path = "backbone.spatial_path.layer"
    for index, (cin, cout, k) in enumerate(
        ((3, spatial, 7), (spatial, spatial, 3), (spatial, spatial, 3), (spatial, width, 1)), 1
    ):
        out.module(f"{path}{index}", cin, cout, k)
    out.module("backbone.ffm.conv1", 2 * width, 2 * width)
    out.module("backbone.ffm.conv_atten.0", 2 * width, 2 * width)
    for head, cin, hidden in (
        ("decode_head", 2 * width, 2 * width),
        ("auxiliary_head.0", width, width // 2),
        ("auxiliary_head.1", width, width // 2),
    ):
        out.module(f"{head}.convs.0", cin, hidden, 3)
        out.conv(f"{head}.conv_seg", hidden, classes, bias=True)


# torchvision and what is built on it


def _torchvision_aspp(out: Tensors, name: str) -> None:
    out.pair(f"{name}.convs.0", 0, 2048, 256)
    for index in (1, 2, 3):
        out.pair(f"{name}.convs.{index}", 0, 2048, 256, 3)
    out.pair(f"{name}.convs.4", 1, 2048, 256)
    out.pair(f"{name}.project", 0, 5 * 256, 256)


def torchvision(model: str, classes: int, tag: str) -> Tensors:
    out = Tensors()
    out.resnet("backbone.", _depth(model), "7x7")
    out.pair("aux_classifier", 0, 1024, 256, 3)
    out.conv("aux_classifier.4", 256, classes, bias=True)
    if model.startswith("fcn"):
        out.pair("classifier", 0, 2048, 512, 3)
        out.conv("classifier.4", 512, classes, bias=True)
    else:
        _torchvision_aspp(out, "classifier.0")
        out.pair("classifier", 1, 256, 256, 3)
        out.conv("classifier.4", 256, classes, bias=True)
    return out


def vainf(model: str, classes: int, tag: str) -> Tensors:
    out = Tensors()
    out.resnet("backbone.", _depth(model), "7x7")
    if model.startswith("deeplabv3plus"):
        out.pair("classifier.project", 0, 256, 48)
        _torchvision_aspp(out, "classifier.aspp")
        out.pair("classifier.classifier", 0, 304, 256, 3)
        out.conv("classifier.classifier.3", 256, classes, bias=True)
    else:
        _torchvision_aspp(out, "classifier.classifier.0")
        out.pair("classifier.classifier", 1, 256, 256, 3)
        out.conv("classifier.classifier.4", 256, classes, bias=True)
    return out


def jfzhang95(model: str, classes: int, tag: str) -> Tensors:
    out = Tensors()
    out.resnet("backbone.", _depth(model), "7x7")
    for index, k in enumerate((1, 3, 3, 3), 1):
        out.conv(f"aspp.aspp{index}.atrous_conv", 2048, 256, k)
        out.norm(f"aspp.aspp{index}.bn", 256)
    out.pair("aspp.global_avg_pool", 1, 2048, 256)
    out.conv("aspp.conv1", 5 * 256, 256)
    out.norm("aspp.bn1", 256)
    out.conv("decoder.conv1", 256, 48)
    out.norm("decoder.bn1", 48)
    out.pair("decoder.last_conv", 0, 304, 256, 3)
    out.pair("decoder.last_conv", 4, 256, 256, 3)
    out.conv("decoder.last_conv.8", 256, classes, bias=True)
    return out


# The authors' own


def encoding(model: str, classes: int, tag: str) -> Tensors:
    out = Tensors()
    out.resnet("pretrained.", _depth(model), "timm")
    out.pair("head.conv5", 0, 2048, 512, 3)
    if tag.startswith("pascal"):
        out.pair("head.connect.0", 0, 512, 512)
        out.pair("head.connect.1", 0, 1024, 512)
        out.pair("head.fusion", 0, 3 * 512, 512, 3)
    out.pair("head.encmodule.encoding", 0, 512, 512)
    out["head.encmodule.encoding.3.codewords"] = (32, 512)
    out["head.encmodule.encoding.3.scale"] = (32,)
    out.norm("head.encmodule.encoding.4", 32)
    out.linear("head.encmodule.fc.0", 512, 512)
    out.linear("head.encmodule.selayer", 512, classes)
    out.conv("head.conv6.1", 512, classes, bias=True)
    out.pair("auxlayer.conv5", 0, 1024, 256, 3)
    out.conv("auxlayer.conv5.4", 256, classes, bias=True)
    return out


def denseaspp(model: str, classes: int, tag: str) -> Tensors:
    depth = int(model.rpartition("_d")[2])
    growth, width, blocks = DENSE[depth]
    mid, block_width = {121: (128, 64), 161: (512, 128)}[depth]
    out = Tensors(counts=False)
    out.conv("features.conv0", 3, width, 7)
    out.norm("features.norm0", width)
    for block, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            out.norm(f"{name}.norm.1", width)
            out.conv(f"{name}.conv.1", width, 4 * growth)
            out.norm(f"{name}.norm.2", 4 * growth)
            out.conv(f"{name}.conv.2", 4 * growth, growth, 3)
            width += growth
        out.norm(f"features.transition{block}.norm", width)
        out.conv(f"features.transition{block}.conv", width, width // 2)
        width //= 2
    out.norm("features.norm5", width)
    for index, rate in enumerate((3, 6, 12, 18, 24)):
        name = f"ASPP_{rate}"
        if index:
            out.norm(f"{name}.norm.1", width)
        out.conv(f"{name}.conv.1", width, mid, bias=True)
        out.norm(f"{name}.norm.2", mid)
        out.conv(f"{name}.conv.2", mid, block_width, 3, bias=True)
        width += block_width
    out.conv("classification.1", width, classes, bias=True)
    return out


def openseg(model: str, classes: int, tag: str) -> Tensors:
    """openseg.pytorch: a norm is the first of a sequence of its own, hence ``.0`` behind it."""
    out = Tensors()
    out.resnet("backbone.", _depth(model), "openseg")

    def unit(name: str, index: int, cin: int, cout: int, k: int = 1, *, bias: bool) -> None:
        out.conv(f"{name}.{index}", cin, cout, k, bias=bias)
        out.norm(f"{name}.{index + 1}.0", cout)

    def attention(name: str, values: int, *, bias: bool) -> None:
        for kind in ("f_key", "f_query"):
            unit(f"{name}.{kind}", 0, 512, 256, bias=bias)
            unit(f"{name}.{kind}", 2, 256, 256, bias=bias)
        out.conv(f"{name}.f_value", 512, values, bias=bias)

    if model.startswith("ocnet_isa"):
        unit("isa_head", 0, 2048, 512, 3, bias=True)
        for half in ("long_range_sa", "short_range_sa"):
            name = f"isa_head.2.stages.0.{half}"
            attention(name, 512, bias=False)
            unit(f"{name}.W", 0, 512, 512, bias=False)
        unit("isa_head.2.conv_bn", 0, 1024, 512, bias=False)
        out.conv("cls_head", 512, classes, bias=True)
        unit("dsn_head", 0, 1024, 512, 3, bias=True)
        out.conv("dsn_head.3", 512, classes, bias=True)
        return out
    unit("oc_module_pre", 0, 2048, 512, 3, bias=True)
    attention("oc_module.stages.0", 256, bias=True)
    out.conv("oc_module.stages.0.W", 256, 512, bias=True)
    unit("oc_module.conv_bn_dropout", 0, 1024, 512, bias=True)
    out.conv("cls", 512, classes, bias=True)
    unit("dsn", 0, 1024, 512, 3, bias=True)
    out.conv("dsn.2", 512, classes, bias=True)
    return out


LAYOUTS: dict[str, Callable[[str, int, str], Tensors]] = {
    "torchseg": torchseg,
    "mmseg": mmseg,
    "torchvision": torchvision,
    "vainf": vainf,
    "jfzhang95": jfzhang95,
    "encoding": encoding,
    "denseaspp": denseaspp,
    "openseg": openseg,
}
