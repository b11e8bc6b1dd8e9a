"""``torchseg-zoo infer``: label a folder with an exported model, and see what goes in and out."""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from typing import TYPE_CHECKING

from torchseg_zoo.cli._options import (
    DEFAULT_MODEL,
    add_model,
    open_model,
    parse_size,
    show_building,
)
from torchseg_zoo.files import printable, require_writable

if TYPE_CHECKING:
    from torchseg_zoo.inference.jobs import Job
    from torchseg_zoo.runtime import Runner
    from torchseg_zoo.runtime.artefact import Artefact
    from torchseg_zoo.runtime.bindings import Cost
    from torchseg_zoo.runtime.inspected import Inspected

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "infer",
        help="label a folder with an exported model, telling inputs, outputs and costs",
        description="Runs a TensorRT engine or an ONNX file on every picture of a folder: lists "
        "its inputs and outputs, and for each picture the input's max, min, mean and std and what "
        "copying in, executing and copying out cost. Pictures are resized to a file's one size. "
        "Exit code 3 when some of several pictures could not be labelled; the others are.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of pictures, or one picture")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--onnx", metavar="FILE", help="run an exported file on ONNX Runtime")
    which.add_argument(
        "--tensorrt", action="store_true",
        help="run on TensorRT: the model, compiled for this GPU, or the engine of --engine",
    )  # fmt: skip
    parser.add_argument("--engine", metavar="FILE", help="existing engine for --tensorrt")
    parser.add_argument(
        "--trust-engine", metavar="SHA256",
        help="digest of an --engine that was not built here, from whoever built it: opening an "
        "engine runs what is in it",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=parse_size, default=(768, 1536), metavar="HxW",
        help="size that a model is compiled for (default: 768x1536)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("fp16", "fp32"), default="fp16",
        help="that a model is compiled in (default: fp16)",
    )  # fmt: skip
    parser.add_argument(
        "--save-engine", metavar="FILE", help="also write the compiled engine there (.engine)"
    )
    add_model(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="DIR", help="folder for the overlays (default: here)"
    )
    parser.set_defaults(run=partial(_run, parser), model=None)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.onnx and (options.engine or options.trust_engine or options.save_engine):
        parser.error("--engine, --trust-engine and --save-engine go with --tensorrt")
    if options.engine and options.save_engine:
        parser.error("--save-engine is for a model that is compiled, not for --engine")
    if options.trust_engine and not options.engine:
        parser.error("--trust-engine goes with --engine")

    from torchseg_zoo.inference.jobs import find_pictures, plan_jobs
    from torchseg_zoo.runtime.inspected import Inspected

    jobs = plan_jobs(find_pictures([options.folder]), options.out)
    inspected = Inspected(_open(options))
    for binding in inspected.bindings:
        print(binding.describe())
    return _label(inspected, jobs)


def _label(inspected: Inspected, jobs: list[Job]) -> int:
    from torchseg_zoo.errors import ZooError
    from torchseg_zoo.inference.jobs import label_job

    costs: list[Cost] = []
    failed: list[ZooError] = []
    for job in jobs:
        result = label_job(inspected.predict, job)
        if isinstance(result, ZooError):
            print(f"torchseg-zoo: {type(result).__name__}: {result}", file=sys.stderr)
            failed.append(result)
            continue
        assert inspected.cost is not None
        assert inspected.statistics is not None
        costs.append(inspected.cost)
        print(
            f"{printable(job.source)}: {inspected.statistics.describe()}; "
            f"{inspected.cost.describe()} -> {printable(result.files[0])}"
        )
    if len(costs) > 1:
        print(f"median of {len(costs)} pictures: {_median(costs).describe()}")
    if len(jobs) == 1 and failed:
        return failed[0].exit_code
    return 3 if failed else 0


def _median(costs: list[Cost]) -> Cost:
    from torchseg_zoo.runtime.bindings import Cost

    return Cost(
        statistics.median(cost.copy_in_ms for cost in costs),
        statistics.median(cost.execute_ms for cost in costs),
        statistics.median(cost.copy_out_ms for cost in costs),
    )


def _open(options: argparse.Namespace) -> Runner:
    if options.onnx:
        from torchseg_zoo import runtime

        return runtime.load(options.onnx, runtime="onnx", device=options.device, resize=True)
    if options.engine:
        from torchseg_zoo.runtime.engine import open_engine

        return open_engine(
            options.engine,
            trust_engine=options.trust_engine,
            described=_described(options),
            device=options.device,
        )
    from torchseg_zoo.runtime.engine_session import tensorrt_module

    tensorrt_module()  # before a model is loaded for nothing
    if options.save_engine:
        require_writable(options.save_engine)

    from torchseg_zoo.export.tensorrt import compile

    device, options.device = options.device, "cpu"  # the model is only exported from there
    options.model = name = options.model or DEFAULT_MODEL
    model = compile(
        open_model(options),
        size=options.size,
        precision=options.precision,
        name="" if options.checkpoint else name,
        device=device,
        progress=show_building if sys.stderr.isatty() else None,
    )
    if options.save_engine:
        print(f"{printable(model.save(options.save_engine))}  sha256 {model.sha256}")
    return model


def _described(options: argparse.Namespace) -> Artefact | None:
    """What the user says that an engine without a record is of, if anything."""
    from torchseg_zoo._version import __version__
    from torchseg_zoo.runtime.artefact import Artefact
    from torchseg_zoo.weights import manifest

    if options.checkpoint:
        loaded = open_model(argparse.Namespace(**vars(options) | {"device": "cpu"}))
        name, labels, preprocess = loaded.config.model, loaded.labels, loaded.preprocess
    elif options.model:
        name, _, tag = options.model.partition(".")
        entry = manifest.find(name, tag)
        labels, preprocess = entry.labels, entry.preprocess
    else:
        return None
    return Artefact(
        model=name,
        checkpoint=options.model or "",
        weights_sha256="",
        labels=labels,
        preprocess=preprocess,
        size=None,
        layout="",
        output="",
        precision="",
        version=__version__,
    )
