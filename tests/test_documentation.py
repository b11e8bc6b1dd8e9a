"""Every code block of README.md and docs/ is run as it stands, or says why it is not.

A page's blocks share a folder, which holds what the page says (``<!-- folder: ... -->``), and its
Python blocks share their names. Numbers that only cost time are made smaller (``shorter``).
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import fnmatch
import importlib
import importlib.util
import io
import itertools
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import hub_of_client
from page_folders import prepare, shorter
from page_shell import Shell, in_this_process
from pages import (
    PAGES,
    ROOT,
    Block,
    anchors_of,
    blocks_of,
    folder_of,
    links_of,
    markers_of,
    prose_of,
    text_of,
)

import torchseg_zoo as tsz
from torchseg_zoo import cli, errors
from torchseg_zoo.training.recipes import RECIPES

# These take longer than all others together: exports, training, conversions, processes.
SOAK = {
    "docs/deploy.md",
    "docs/evaluate.md",
    "docs/from_others.md",
    "docs/from_torchseg.md",
    "docs/runtimes/onnxruntime.md",
    "docs/runtimes/openvino.md",
    "docs/runtimes/torch-export.md",
}
ELSEWHERE = {
    "docs/finetune.md": "tests/test_finetune.py",
    **{page: "tests/journeys/test_journeys.py" for page in PAGES if "/journeys/" in page},
}
CODE = ("python", "sh", "console")
WITH_BLOCKS = [page for page in PAGES if any(block.language in CODE for block in blocks_of(page))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, a cache of its own, and no network."""
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    path = list(sys.path)
    yield place
    sys.path[:] = path  # torch.hub adds the folder that it loads from


@contextlib.contextmanager
def hub_on_loopback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub = hub_of_client(monkeypatch, folder.parent / "hub")
    with hub, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)  # the client's own
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        yield


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.soak] if page in SOAK else [])
        for page in WITH_BLOCKS
        if page not in ELSEWHERE
    ],
)
def test_the_blocks_of_a_page_do_what_it_says(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    things = folder_of(page)
    prepare([name for name in things if name != "hub"], folder)
    names: dict[str, object] = {"__name__": page}
    with contextlib.ExitStack() as stack:
        if "hub" in things:
            stack.enter_context(hub_on_loopback(folder, monkeypatch))
        shell = Shell(in_this_process(capsys))
        for block in blocks_of(page):
            if block.not_run is not None or block.language not in CODE:
                continue
            block = shorter(block)
            if block.language == "python":
                # Empty lines first, so that a traceback names the page's own lines.
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
            else:
                for command in block.commands():
                    shell.run(block, command)
        shell.require_success()


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why_and_names_what_exists(page: str) -> None:
    blocks = blocks_of(page)
    assert markers_of(page) == sum(block.not_run is not None for block in blocks), page
    for block in blocks:
        assert block.language in (*CODE, "text", "bibtex", "toml", "json", "nginx"), (
            f"{block}: which code?"
        )
        if block.language not in CODE:
            assert not re.search(r"^(\$ )?(torchseg-zoo|python|pip) ", block.text, re.M), block
        if block.not_run is None:
            continue
        assert len(block.not_run.split()) >= 3, f"{block}: why is it not run?"
        if block.language == "python":
            check_names(block)
        else:
            for command in block.commands():
                check_command(block, command.words)


def check_names(block: Block) -> None:
    """The block compiles, and what it takes from this package is there."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchseg_zoo"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                has = hasattr(module, name.name) or importlib.util.find_spec(
                    f"{node.module}.{name.name}"
                )
                assert has, f"{block}: {node.module} has no {name.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "tsz" or hasattr(tsz, node.attr), f"{block}: tsz.{node.attr}"


def check_command(block: Block, words: tuple[str, ...]) -> None:
    """What can be known of a command without running it."""
    words = tuple(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    program = Path(words[0]).name
    if program == "torchseg-zoo":
        check_arguments(block, words[1:])
    elif "-m" in words[:3]:
        module, *rest = words[words.index("-m") + 1 :]
        assert module in ("torchseg_zoo", "pytest", "venv"), f"{block}: {module}?"
        if module == "torchseg_zoo":
            check_arguments(block, tuple(rest))
    elif program in ("python", "torchrun"):
        script = next(word for word in words[1:] if word.endswith(".py"))
        assert (ROOT / script).is_file() or script.startswith("pytorch-image-models/"), block
    elif program == "pip":
        for name in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(name.split(",")) <= set(extras()), f"{block}: no extra {name}"
    else:
        assert program in ("git", "hf", "mkdocs"), f"{block}: {program}?"


def check_arguments(block: Block, words: tuple[str, ...]) -> None:
    """The command line takes them, and the models and recipes that they name exist."""
    try:
        options = cli.build_parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"{block}: the command line does not take {words}")
    if (recipe := getattr(options, "recipe", None)) not in (None, "list"):
        assert recipe in RECIPES, f"{block}: no recipe {recipe}"
    names = [getattr(options, "model", None), *(getattr(options, "names", None) or [])]
    for name in filter(None, names):
        known = [*tsz.list_models(), *(one for e in tsz.list_checkpoints() for one in e.names)]
        assert fnmatch.filter(known, name), f"{block}: no model or checkpoint {name}"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    home = (ROOT / page).parent
    for link in links_of(page):
        place, _, anchor = link.partition("#")
        target = (home / place).resolve() if place else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: {link}"


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_commands_in_sentences_have_their_options(page: str) -> None:
    parser = cli.build_parser()
    for code in re.findall(r"`torchseg-zoo ([^`]+)`", prose_of(page)):
        words = code.split()
        helped = io.StringIO()
        verb = words[: 2 if words[0] == "weights" else 1]
        if verb == ["COMMAND"]:
            continue
        with contextlib.redirect_stdout(helped), contextlib.suppress(SystemExit):
            parser.parse_args([*verb, "--help"])
        for option in (word.split("=")[0] for word in words if word.startswith("-")):
            assert option in helped.getvalue(), f"{page}: {code}"


def extras() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return list(setup["options.extras_require"])


def column(page: str, heading: str, position: int = 0) -> list[str]:
    """The names in backquotes in a column of the table under that row of headings."""
    rows = text_of(page).partition(f"{heading}\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[position + 1])]


def test_the_extras_are_those_of_the_package() -> None:
    assert sorted(column("docs/index.md", "| extra | for |")) == sorted(extras())


def test_the_commands_are_those_of_the_command_line() -> None:
    verbs = [verb.replace("_", "-") for verb in cli._VERBS]
    assert sorted(column("docs/commands.md", "| command | does | more |")) == sorted(verbs)


def test_the_errors_are_those_of_the_package() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (.+?) \| (.+?) \|$", text_of("docs/errors.md"), re.M
    )
    kinds = [kind for name in errors.__all__ if isinstance(kind := getattr(errors, name), type)]
    wanted = {
        kind.__name__: (str(kind.exit_code), (kind.__doc__ or "").partition("\n")[0])
        for kind in kinds
    }
    assert {name: (code, meaning) for name, code, meaning, _ in rows} == wanted
    assert len(rows) == len(wanted)


def test_the_variables_are_those_of_the_package() -> None:
    source = "".join(path.read_text() for path in (ROOT / "torchseg_zoo").rglob("*.py"))
    ours = set(re.findall(r'"(TORCHSEG_ZOO_[A-Z]+)"', source))
    assert ours == set(re.findall(r"`(TORCHSEG_ZOO_[A-Z]+)[=1]*`", text_of("docs/errors.md")))


def test_every_record_is_on_their_page() -> None:
    records = {path.name for path in (ROOT / "docs/records").glob("2*.md")}
    assert records == {link for link in links_of("docs/records/index.md") if link[0] == "2"}


def test_pages_that_are_run_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in text_of(test)
