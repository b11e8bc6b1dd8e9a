"""The page: which parts it has, and what happens when they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from torchseg_zoo.demo import words
from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.demo.results import Kept, Results
from torchseg_zoo.demo.shelf import OWN_FILE, Choice, Shelf
from torchseg_zoo.demo.worker import Worker
from torchseg_zoo.errors import ZooError

__all__ = ["Page"]

_HEIGHT_PX = 460
_ERROR_S = 20
# Uploads and what Gradio makes of them are looked through so often, and are removed at this age.
_CLEAN_EVERY_S, _UPLOAD_AGE_S = 300, 3600


class Page:
    """The demo's page.

    Args:
        config: what it offers.
        shelf: the models.
        worker: labels.
        results: takes what comes of it.
        examples: pictures to try.

    Attributes:
        blocks: the page, as Gradio takes it.
    """

    def __init__(
        self,
        config: DemoConfig,
        shelf: Shelf,
        worker: Worker,
        results: Results,
        examples: list[Path],
    ) -> None:
        self._shelf, self._worker, self._results = shelf, worker, results
        with gr.Blocks(
            title="torchseg_zoo",
            analytics_enabled=False,
            delete_cache=(_CLEAN_EVERY_S, _UPLOAD_AGE_S),
        ) as self.blocks:
            self._lay_out(examples)
            self._connect(examples)
        self.blocks.queue(max_size=config.queue_size, default_concurrency_limit=1)

    def _lay_out(self, examples: list[Path]) -> None:
        gr.Markdown(words.INTRODUCTION)
        self.kept = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                choices = self._shelf.choices()
                self.model = gr.Dropdown(
                    _listed(choices), value=self._shelf.first, label="Model", filterable=True,
                    elem_id="model",
                )  # fmt: skip
                first = self._shelf.find(self._shelf.first)
                with gr.Column(visible=not first.here) as self.offer:
                    self.terms = gr.Markdown(first.offer)
                    self.fetch = gr.Button("Download it", elem_id="fetch")
                self.picture = gr.Image(
                    label="Picture", sources=["upload", "clipboard"], type="filepath",
                    height=260, elem_id="picture", buttons=[],
                )  # fmt: skip
                # Gradio would decode it here, whatever its header says; the worker does.
                self.picture.preprocess = _path_of
                # Not gr.Examples: it calls past the queue, by a route that would let anybody do so.
                self.examples = gr.Dataset(
                    components=[self.picture],
                    samples=[[str(example)] for example in examples],
                    label="Drawn streets",
                    type="index",
                    elem_id="examples",
                )
                self.summary = gr.Markdown(elem_id="summary")
                self.labels = gr.DownloadButton(
                    "Download labels (PNG)", interactive=False, elem_id="labels"
                )
            with gr.Column(scale=2, min_width=320):
                with gr.Tabs():
                    with gr.Tab("Overlay"):
                        self.slider = gr.ImageSlider(
                            label="Photo | overlay", interactive=False, elem_id="slider",
                            max_height=_HEIGHT_PX, buttons=["fullscreen"],
                        )  # fmt: skip
                    with gr.Tab("Pixels"):
                        self.overlay = gr.Image(
                            label="Overlay", interactive=False, type="filepath", elem_id="overlay",
                            height=_HEIGHT_PX, buttons=["fullscreen"],
                        )  # fmt: skip
                        self.pixel = gr.HTML(words.HINT, elem_id="pixel")
                    with gr.Tab("Confidence"):
                        self.confidence = gr.Image(
                            label="White is certain", interactive=False, type="filepath",
                            elem_id="confidence", height=_HEIGHT_PX, buttons=["fullscreen"],
                        )  # fmt: skip
                self.legend = gr.HTML(elem_id="legend")

    def _connect(self, examples: list[Path]) -> None:
        shown = [
            self.slider, self.overlay, self.confidence, self.legend, self.summary, self.labels,
            self.pixel, self.kept,
        ]  # fmt: skip
        at_once: dict[str, Any] = {"concurrency_limit": None}
        label: dict[str, Any] = {
            "fn": self._label,
            "inputs": [self.picture, self.model],
            "outputs": shown,
            "api_name": "label",
            "concurrency_id": "label",
            "concurrency_limit": 1,
        }
        # A second picture, or model, while the first is labelled: the last one is labelled next.
        gr.on([self.picture.upload, self.picture.clear], **label, trigger_mode="always_last")
        self.examples.click(
            lambda number: str(examples[number]), self.examples, self.picture, **at_once
        ).then(**label)
        self.model.change(self._describe, self.model, [self.offer, self.terms], **at_once).then(
            **label
        )
        self.fetch.click(
            self._fetch, self.model, [self.model, self.offer],
            api_name="fetch", concurrency_id="fetch", concurrency_limit=1,
        ).success(**label)  # fmt: skip
        self.overlay.select(self._pixel, self.kept, self.pixel, api_name="pixel", **at_once)
        # Models that others have fetched since the server was started.
        self.blocks.load(self._listed, None, self.model, **at_once)

    def _label(self, picture: str | None, model: object) -> tuple[Any, ...]:
        """Labels the picture, if there is one and the model is here."""
        try:
            kept = self._labelled(picture, model)
        except ZooError as error:
            # What was shown was another picture's; the message takes its place.
            message = words.apology(error)
            gr.Warning(message, duration=_ERROR_S, title="Not labelled")
            return _nothing(message)
        if kept is None:
            return _nothing("" if picture is None else words.NOT_HERE)
        overlay = str(kept.file("overlay"))
        return (
            (str(kept.file("photo")), overlay),
            overlay,
            str(kept.file("confidence")),
            words.legend(kept.result),
            words.summary(kept.result),
            gr.DownloadButton(value=str(kept.file("labels")), interactive=True),
            words.HINT,
            kept,
        )

    def _labelled(self, picture: str | None, model: object) -> Kept | None:
        choice = self._shelf.find(model)
        if picture is None or not choice.here:
            return None
        folder = self._results.new_folder()
        try:
            name = "" if choice.name == OWN_FILE else choice.name
            result = self._worker.label(name, Path(picture), folder)
        except BaseException:
            self._results.drop(folder)
            raise
        return self._results.keep(folder, result)

    def _pixel(self, kept: Kept | None, event: gr.SelectData) -> str:
        """The classes of the pixel that was clicked."""
        if kept is None:
            return words.HINT
        x, y = (int(place) for place in event.index)
        with _told():
            found = self._worker.pixel(kept.folder.name, x, y)
        return words.pixel(kept, found) if found else words.FORGOTTEN

    def _describe(self, model: object) -> tuple[Any, Any]:
        """Offers to download the chosen model if it is not here."""
        with _told():
            choice = self._shelf.find(model)
        return gr.Column(visible=not choice.here), choice.offer

    def _fetch(self, model: object) -> tuple[Any, Any]:
        with _told():
            self._shelf.fetch(model)
        return gr.Dropdown(_listed(self._shelf.choices()), value=model), gr.Column(visible=False)

    def _listed(self) -> Any:
        return gr.Dropdown(_listed(self._shelf.choices()))


class _told:
    """Turns our errors into messages on the page."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ZooError):
            raise gr.Error(
                words.apology(error), duration=_ERROR_S, print_exception=False
            ) from error


def _nothing(summary: str) -> tuple[Any, ...]:
    """What is shown where there is no result."""
    empty = gr.DownloadButton(value=None, interactive=False)
    return None, None, None, "", summary, empty, words.HINT, None


def _path_of(upload: Any) -> str | None:
    """The file of an upload, as Gradio describes it."""
    return None if upload is None else str(upload.path)


def _listed(choices: list[Choice]) -> list[tuple[str, str]]:
    """What a dropdown shows, and its values."""
    return [(choice.title, choice.name) for choice in choices]
