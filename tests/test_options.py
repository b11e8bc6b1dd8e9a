"""One word for one thing: the options of all verbs, the pages, the messages and the functions."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, prose_of

from torchseg_zoo import cli
from torchseg_zoo.benchmark.run import benchmark
from torchseg_zoo.data.prepare import prepare
from torchseg_zoo.demo import DemoConfig
from torchseg_zoo.export.onnx import export_onnx
from torchseg_zoo.export.tensorrt import compile as compile_engine
from torchseg_zoo.inference.batch import predict_files
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.models.publish import publish
from torchseg_zoo.weights.prune import prune

Parsers = dict[str, argparse.ArgumentParser]


def parsers_of(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb without verbs of its own, by its words."""
    inner = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, below in action.choices.items():
            yield from parsers_of(below, f"{name} {word}".strip())


VERBS: Parsers = dict(parsers_of(cli.build_parser()))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings}


EVERY_OPTION = {"--version"}.union(*map(options_of, VERBS.values()))


# Between verbs


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_is(verb: str) -> None:
    for action in VERBS[verb]._actions:
        assert action.help and len(action.help) > 3, action
        words = " ".join(action.option_strings)
        assert not re.search(r" \(\d[\dx.]*\)", action.help), f"{words}: write (default: ...)"


def test_an_option_is_of_one_kind_in_every_verb() -> None:
    kinds = defaultdict(lambda: defaultdict(list))  # type: ignore[var-annotated]
    for verb, parser in VERBS.items():
        for action in parser._actions:
            for word in action.option_strings:
                kinds[word][takes_of(action)].append(verb)
    several = {word: dict(found) for word, found in kinds.items() if len(found) > 1}
    # `train --resume auto` is the same as `--resume`.
    assert set(several) <= {"--resume"}, several


def takes_of(action: argparse.Action) -> str:
    return {0: "nothing", "?": "perhaps a value"}.get(action.nargs, "a value")  # type: ignore[arg-type]


def test_a_short_option_has_one_long_name() -> None:
    names = defaultdict(set)
    for parser in VERBS.values():
        for action in parser._actions:
            for word in action.option_strings:
                if re.fullmatch("-[a-z]", word):
                    names[word] |= {w for w in action.option_strings if w.startswith("--")}
    assert names["-o"] == {"--out"} and names["-m"] == {"--model"}
    assert names["-c"] == {"--checkpoint"} and names["-d"] == {"--device", "--devices"}
    for short in set(names) - {"-d"}:
        assert len({name.replace("_path", "").replace("_image", "") for name in names[short]}) == 1
    # ... and what has a short name has it everywhere.
    for verb, parser in VERBS.items():
        for action in parser._actions:
            for short, longs in names.items():
                # TorchSeg's -e is of its eval.py only.
                if longs & set(action.option_strings) and (verb, short) != ("train", "-e"):
                    assert short in action.option_strings, f"{verb}: {longs} without {short}"


# Between the command line and the functions


def default_of(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


FUNCTIONS = {
    "benchmark": (
        ["benchmark", "a"],
        benchmark,
        {"batch": "batch", "threads": "threads", "rounds": "rounds", "device": "device"},
    ),
    "demo": (
        ["demo"],
        DemoConfig,
        {
            "model": "model", "checkpoint": "checkpoint", "device": "device", "host": "host",
            "port": "port", "root_path": "root_path", "max_pixels": "max_pixels",
            "time_limit": "time_limit_s", "queue": "queue_size",
        },
    ),
    "export": (
        ["export"],
        export_onnx,
        {
            "size": "size", "batch": "batch", "layout": "layout", "output": "output",
            "precision": "precision",
        },
    ),
    "infer": (
        ["infer", "a", "--tensorrt"],
        compile_engine,
        {"size": "size", "precision": "precision", "device": "device"},
    ),
    "predict": (
        ["predict", "a"],
        predict_files,
        {"labels": "labels", "confidence": "confidence", "shard": "shard", "resume": "resume"},
    ),
    "predict, kind": (["predict", "a"], Predictor, {"confidence_kind": "confidence"}),
    "prepare": (
        ["prepare", "voc", "--root", "a"],
        prepare,
        {"out": "out", "sbd": "sbd", "val_percent": "val_percent", "overwrite": "overwrite"},
    ),
    "weights prune": (
        ["weights", "prune"],
        prune,
        {"downloads": "downloads", "unused": "unused_days", "dry_run": "dry_run"},
    ),
    "weights publish": (
        ["weights", "publish", "a", "--to", "b/c"],
        publish,
        {"responsible": "responsible", "dry_run": "dry_run"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
def test_defaults_are_those_of_the_function(case: str) -> None:
    words, function, names = FUNCTIONS[case]
    options = cli.build_parser().parse_args(words)
    for option, argument in names.items():
        assert getattr(options, option) == default_of(function, argument), option


# In pages and messages


def code_of(page: str) -> Iterator[str]:
    """What stands in backquotes outside blocks; of tables `there | here` the right side."""
    there = False
    for line in prose_of(page).splitlines():
        there = line.startswith("| there |") or (there and line.startswith("|"))
        yield from re.findall(r"`([^`]+)`", line.partition(" | ")[2] if there else line)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_options_in_sentences_exist(page: str) -> None:
    for code in code_of(page):
        words = shlex.split(code) if code.count('"') % 2 == code.count("'") % 2 == 0 else [code]
        if not words:
            continue
        verb = next((v for n in (2, 1) if (v := " ".join(words[:n])) in VERBS), None)
        if verb is not None:
            known = options_of(VERBS[verb])
        elif words[0].startswith("-"):
            known = EVERY_OPTION | options_of_scripts(page)
        else:
            continue
        for word in words:
            if re.match("--[a-z]|-[a-z]$", word):
                assert word.partition("=")[0] in known, f"{page}: {code}"


def options_of_scripts(page: str) -> set[str]:
    """Those of the examples and benchmarks that the page names."""
    scripts = re.findall(r"(?:examples|benchmarks|tools)/\w+\.py", (ROOT / page).read_text())
    found: set[str] = set()
    for script in filter(Path.is_file, (ROOT / script for script in scripts)):
        found |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', script.read_text()))
    return found


# Options of other programs that our messages name.
OTHERS = {"--nproc-per-node", "--shm-size", "--query-gpu", "--format"}


def test_options_in_messages_exist() -> None:
    for path in sorted((ROOT / "torchseg_zoo").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if "var(--" in node.value:  # a style sheet's variables
                    continue
                for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value):
                    known = word in EVERY_OPTION | OTHERS or word + "_path" in EVERY_OPTION
                    assert known, f"{path}:{node.lineno}: {word}"


def test_messages_of_functions_name_their_arguments_before_options() -> None:
    """Whoever calls a function cannot give an option: the argument is named, too."""
    commands = re.compile(r"torchseg-zoo [\w -]*--|parser\.error")
    for path in sorted((ROOT / "torchseg_zoo").rglob("*.py")):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.keyword) or node.arg not in ("fix", "why"):
                continue
            text = ast.unparse(node.value)
            if re.search(r"(?<![\w`-])--[a-z]", text) and not commands.search(text):
                assert re.search(r"\((?:[\w' ]+)?--[a-z]", text), f"{path}:{node.value.lineno}"
