"""A clean environment, and a folder in which a page is followed there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from checkout import checkout_files, copy_files
from clean_environment import (
    WITHOUT_TORCH,
    Environment,
    Forks,
    build_wheel,
    install,
    new_environment,
)
from page_folders import prepare
from page_walk import Walk, walking
from pages import folder_of

# (page, environment, more variables) → the walk, in a folder that holds what the page says.
Arrive = Callable[..., Walk]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_files(checkout_files(), tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Libraries, and not this package."""
    return new_environment(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="session")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """This package and its libraries."""
    environment = new_environment(tmp_path_factory.mktemp("clean"))
    install(wheel, environment)
    return environment


@pytest.fixture(scope="session")
def box(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """This package where there is no torch."""
    environment = new_environment(tmp_path_factory.mktemp("box"), WITHOUT_TORCH)
    install(wheel, environment)
    return environment


@pytest.fixture(scope="session", params=["forked", pytest.param("anew", marks=pytest.mark.soak)])
def forks(request: pytest.FixtureRequest, clean: Environment) -> Iterator[Forks | None]:
    """Of the clean environment; ``None`` where each command is a Python that is started anew."""
    if request.param == "anew":
        yield None
        return
    running = Forks(clean)
    yield running
    running.close()


@pytest.fixture
def arrive(
    checkout: Path, clean: Environment, forks: Forks | None, tmp_path: Path
) -> Iterator[Arrive]:
    """Begins walks, each with a home of its own, and ends them after the test."""
    with ExitStack() as stack:
        count = 0

        def begin(page: str, environment: Environment = clean, **more: str) -> Walk:
            nonlocal count
            count += 1
            place = tmp_path / f"{count}"
            folder, home = place / "here", place / "home"
            folder.mkdir(parents=True)
            home.mkdir()
            fill(folder, page, checkout)
            own = dataclasses.replace(environment, home=home)
            ours = forks if environment is clean else None
            return stack.enter_context(walking(own, folder, ours, **more))

        yield begin


def fill(folder: Path, page: str, checkout: Path) -> None:
    """Puts what a page names into a folder; the checkout is the copy."""
    linked = {"examples/": checkout / "examples", "torchseg-zoo/": checkout, "hub": None}
    names = folder_of(page)
    prepare([name for name in names if name not in linked], folder)
    for name in names:
        if target := linked.get(name):
            (folder / name).symlink_to(target)
