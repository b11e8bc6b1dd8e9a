"""``torchseg-zoo demo``: a page in the browser to try models on pictures."""

from __future__ import annotations

import argparse

from torchseg_zoo.cli._options import add_model

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "demo",
        help="try models on pictures in the browser",
        description="Shows a page that labels pictures, on this machine only unless --host says "
        "otherwise, until Ctrl-C. Needs the extra demo.",
    )
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="0 for a free one (default: 7860)"
    )
    parser.add_argument(
        "--root-path", default="", metavar="/PATH", help="path under which a proxy shows the page"
    )
    parser.add_argument(
        "--no-download", action="store_true", help="offer only the models on this machine"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=16_000_000, metavar="N",
        help="largest height times width of a picture (default: 16000000)",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SECONDS",
        help="for labelling one picture (default: 60)",
    )  # fmt: skip
    parser.add_argument(
        "--queue", type=int, default=32, metavar="N", help="pictures that may wait (default: 32)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.demo import DemoConfig, serve

    serve(
        DemoConfig(
            model=options.model,
            checkpoint=options.checkpoint,
            device=options.device,
            host=options.host,
            port=options.port,
            root_path=options.root_path.rstrip("/"),
            downloads=not options.no_download,
            max_pixels=options.max_pixels,
            time_limit_s=options.time_limit,
            queue_size=options.queue,
        ),
        ready=lambda address: print(f"torchseg-zoo demo: {address} (Ctrl-C ends it)", flush=True),
    )
    return 0
