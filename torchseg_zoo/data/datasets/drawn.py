"""Street scenes drawn from a seed, with exact labels: a data set that needs no files.

The classes are CamVid's; layout, colours and class shares follow its driving frames roughly. A
scene is a list of things along a slightly bent road, painted from far to near, so that nearer
things hide farther ones. ``_drawn_street`` lays it out, ``_drawn_things`` and ``_drawn_traffic``
know what things look like, ``_drawing`` has the camera and the paint.
"""

from __future__ import annotations

import numpy as np

from torchseg_zoo.data.datasets._drawing import Canvas, make_light
from torchseg_zoo.data.datasets._drawn_street import Street
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import ArgumentError

__all__ = ["EXAMPLE_SEED", "DrawnStreets", "draw_street"]

EXAMPLE_SEED = 819
"""Scene seed of the example picture. It is odd; ``DrawnStreets`` draws even scene seeds only."""

_MIN_SIDE = 32
_SEED_STRIDE = 1_000_000


class DrawnStreets:
    """Street scenes drawn on demand; the same (seed, index) always gives the same scene.

    Scene seeds are ``2 * (1_000_000 * seed + index)``: data sets with different seeds share no
    scene, and none holds the scene of ``EXAMPLE_SEED``, which is odd.

    Args:
        length: number of scenes, 1..1_000_000.
        seed: 0 or more; picks the scenes.
        size: (height, width) in pixels, each at least 32.

    Raises:
        ArgumentError: if an argument is out of range.
    """

    labels = CAMVID

    def __init__(
        self, length: int = 400, *, seed: int = 0, size: tuple[int, int] = (360, 480)
    ) -> None:
        if not 1 <= length <= _SEED_STRIDE:
            raise ArgumentError(
                f"{length} scenes asked for", where="length", fix=f"give 1 to {_SEED_STRIDE}"
            )
        if seed < 0:
            raise ArgumentError(f"seed is {seed}", where="seed", fix="give 0 or more")
        _check_size(size)
        self._length, self._seed, self._size = length, seed, size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        scene_seed = 2 * (_SEED_STRIDE * self._seed + index % self._length)
        image, label = draw_street(scene_seed, self._size)
        return Sample(f"street-{scene_seed:08d}", image, label)


def draw_street(seed: int, size: tuple[int, int] = (360, 480)) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street scene; a pure function of its arguments.

    At another size the same things stand in the same places, but details differ.

    Args:
        seed: 0 or more.
        size: (height, width) in pixels, each at least 32.

    Returns:
        (H, W, 3) uint8 RGB picture and (H, W) uint8 train ids of CAMVID, 0..10, none ignored.

    Raises:
        ArgumentError: if ``seed`` is negative or a side is shorter than 32 pixels.
    """
    if seed < 0:
        raise ArgumentError(f"seed is {seed}", where="seed", fix="give 0 or more")
    _check_size(size)
    # Two generators: how much detail is drawn depends on the size, the plan must not.
    source = np.random.PCG64(seed)
    rng, detail = np.random.Generator(source), np.random.Generator(source.jumped())
    street = Street(rng, Canvas(detail, size, make_light(rng)))
    street.lay_out()
    image, label = street.paint()
    if rng.random() < 0.3:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < _MIN_SIDE:
        raise ArgumentError(
            f"size is {size}", where="size", fix=f"give (height, width), each {_MIN_SIDE} or more"
        )
