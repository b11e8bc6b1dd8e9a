"""The things in drawn street scenes: houses, plants and street furniture.

Each function paints one thing and its label on a ``Canvas``. Lengths are in metres;
``foot`` is the world point on which a thing stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torchseg_zoo.data.datasets._drawing import (
    BUILDING,
    FENCE,
    POLE,
    SIGN,
    TREE,
    Canvas,
    Color,
    Point,
    Sprite,
    pick,
    vary,
)

_WALLS: tuple[Color, ...] = (
    (128, 82, 64),
    (112, 74, 60),
    (156, 138, 106),
    (140, 122, 96),
    (190, 184, 172),
    (168, 164, 158),
    (128, 126, 124),
    (104, 98, 92),
    (172, 150, 122),
)
_BRICKS = 4  # so many of the walls are brick
_SHOPS: tuple[Color, ...] = (
    (34, 52, 84),
    (120, 30, 32),
    (30, 70, 52),
    (40, 40, 44),
    (180, 170, 140),
)
_ROOFS: tuple[Color, ...] = ((78, 76, 80), (96, 66, 54), (66, 62, 62), (110, 84, 70))
_LEAVES: tuple[Color, ...] = (
    (72, 86, 50),
    (62, 74, 48),
    (92, 98, 60),
    (112, 98, 58),
    (80, 84, 64),
)
_STEEL: tuple[Color, ...] = ((92, 96, 98), (120, 124, 124), (60, 64, 62), (150, 152, 150))
_GLASS: Color = (42, 48, 56)
_LIT: Color = (520, 420, 240)


@dataclass(frozen=True)
class Wall:
    """An upright plane from one ground point to another, seen from the street."""

    start: tuple[float, float]
    end: tuple[float, float]

    @property
    def length(self) -> float:
        """Metres from start to end."""
        return math.dist(self.start, self.end)

    @property
    def near(self) -> float:
        """Distance of the nearer end."""
        return max(0.4, min(self.start[1], self.end[1]))

    def at(self, along: float, up: float) -> Point:
        """World point ``along`` metres from the start, ``up`` metres above the ground."""
        share = along / max(self.length, 1e-6)
        x = self.start[0] + (self.end[0] - self.start[0]) * share
        return (x, up, self.start[1] + (self.end[1] - self.start[1]) * share)

    def box(self, left: float, right: float, low: float, high: float) -> list[Point]:
        """Corners of an upright rectangle on the wall."""
        return [self.at(left, low), self.at(right, low), self.at(right, high), self.at(left, high)]


@dataclass(frozen=True)
class House:
    """What one house looks like."""

    wall: Color
    frame: Color
    roof: Color
    shop: Color | None
    storeys: int
    storey_m: float
    window_m: float
    spacing_m: float
    pitch_m: float
    brick: bool

    @property
    def height_m(self) -> float:
        """Height of the eaves."""
        return self.storeys * self.storey_m + 0.4


def make_house(rng: np.random.Generator, storeys: int) -> House:
    """Draws a style of house."""
    kind = int(rng.integers(len(_WALLS)))
    return House(
        wall=vary(rng, _WALLS[kind]),
        frame=pick(rng, ((214, 212, 206), (190, 188, 180), (70, 66, 62))),
        roof=vary(rng, pick(rng, _ROOFS)),
        shop=vary(rng, pick(rng, _SHOPS)) if rng.random() < 0.4 else None,
        storeys=storeys,
        storey_m=rng.uniform(2.7, 3.4),
        window_m=rng.uniform(0.9, 1.7),
        spacing_m=rng.uniform(2.0, 3.2),
        pitch_m=rng.uniform(1.5, 3.2) if rng.random() < 0.65 else 0.0,
        brick=kind < _BRICKS,
    )


def house(c: Canvas, look: House, front: Wall, back: tuple[float, float], shades: Color) -> None:
    """Paints a house: roof, gable, then front.

    Args:
        front: the street side, nearer end first.
        back: ground shift (x, z) from the front to the back wall.
        shades: light on front, gable and roof, as factors.
    """
    top, ridge = look.height_m, look.height_m + look.pitch_m
    (x0, z0), (x1, z1) = front.start, front.end
    dx, dz = back
    if look.pitch_m:
        near, far = (x0 + dx / 2, ridge, z0 + dz / 2), (x1 + dx / 2, ridge, z1 + dz / 2)
        _chimney(c, look, near, far)
        eaves = [front.at(-0.15, top), near, far, front.at(front.length + 0.15, top)]
        c.polygon(eaves, look.roof, BUILDING, shades[2])
    gable = Wall((x0 + dx, z0 + dz), (x0, z0))
    outline = gable.box(0, gable.length, 0, top)
    if look.pitch_m:
        outline.insert(3, (x0 + dx / 2, ridge, z0 + dz / 2))
    c.polygon(outline, look.wall, BUILDING, shades[1])
    if c.pixels(1, gable.near) > 5:
        _courses(c, look, gable, shades[1])
        _windows(c, look, gable, shades[1], first=0, spacing=gable.length / 2.5)
    c.polygon(front.box(0, front.length, 0, top), look.wall, BUILDING, shades[0])
    _courses(c, look, front, shades[0])
    _windows(c, look, front, shades[0], first=1, spacing=look.spacing_m)
    _ground_floor(c, look, front, shades[0])
    c.polygon(front.box(0, front.length, top - 0.3, top), look.wall, BUILDING, shades[0] * 0.75)


def _chimney(c: Canvas, look: House, near: Point, far: Point) -> None:
    x, y, z = (a + (b - a) * 0.15 for a, b in zip(near, far, strict=True))
    stack = Wall((x - 0.5, z), (x + 0.5, z))
    c.polygon(stack.box(0, 1, y - 0.8, y + 1.3), look.wall, BUILDING, 0.75)
    for pot in (0.25, 0.6):
        c.polygon(stack.box(pot, pot + 0.2, y + 1.3, y + 1.7), (120, 80, 62), BUILDING)


def _courses(c: Canvas, look: House, wall: Wall, shade: float) -> None:
    """Brick courses, or faint bands on plaster, where they are large enough to be seen."""
    if c.pixels(0.45, wall.near) < 3 or not look.brick:
        return
    for step in range(int(look.height_m / 0.45)):
        low = step * 0.45
        c.polygon(wall.box(0, wall.length, low, low + 0.06), look.wall, BUILDING, shade * 0.9)


def _windows(
    c: Canvas, look: House, wall: Wall, shade: float, *, first: int, spacing: float
) -> None:
    count = int((wall.length - 0.4) / spacing)
    if count < 1 or c.pixels(look.window_m, wall.near) < 1.5:
        return
    gap = wall.length / count
    width, height = min(look.window_m, 0.75 * gap), 0.52 * look.storey_m
    for storey in range(first, look.storeys):
        sill = storey * look.storey_m + 0.3 * look.storey_m
        for column in range(count):
            middle = (column + 0.5) * gap
            _window(c, look, wall, (middle - width / 2, sill, width, height), shade)


def _window(
    c: Canvas, look: House, wall: Wall, place: tuple[float, float, float, float], shade: float
) -> None:
    left, sill, width, height = place
    z = max(0.4, wall.at(left, 0)[2])
    right, head, rng = left + width, sill + height, c.rng
    lit = c.light.night > 0 and rng.random() < 0.18
    glass = _LIT if lit else vary(rng, _GLASS, 0.4)
    if not lit and rng.random() < 0.3:
        glass = vary(rng, (112, 124, 138), 0.3)
    if c.pixels(0.1, z) > 0.5:
        c.polygon(
            wall.box(left - 0.1, right + 0.1, sill - 0.12, head + 0.08), look.frame, BUILDING, shade
        )
    c.polygon(wall.box(left, right, sill, head), glass, BUILDING, 1.0 if lit else shade)
    if c.pixels(0.06, z) > 0.7:
        middle = sill + 0.5 * height
        c.polygon(wall.box(left, right, middle - 0.03, middle + 0.03), look.frame, BUILDING, shade)
        middle = left + 0.5 * width
        c.polygon(wall.box(middle - 0.03, middle + 0.03, sill, head), look.frame, BUILDING, shade)


def _ground_floor(c: Canvas, look: House, front: Wall, shade: float) -> None:
    """A shop front, or doors between windows."""
    rng, length, high = c.rng, front.length, look.storey_m
    if c.pixels(1, front.near) < 2:
        return
    if look.shop is None:
        count = max(1, int((length - 0.4) / (1.3 * look.spacing_m)))
        gap, width = length / count, min(look.window_m, 0.4 * length / count)
        door = vary(rng, pick(rng, _SHOPS))
        for column in range(count):
            left = column * gap + 0.15 * gap
            _window(c, look, front, (left, 0.32 * high, width, 0.45 * high), shade)
            right = (column + 1) * gap - 0.15 * gap
            if column % 2 == 0 and right - 0.95 > left + width:
                c.polygon(front.box(right - 1.05, right + 0.1, 0, 2.2), look.frame, BUILDING, shade)
                c.polygon(front.box(right - 0.95, right, 0, 2.1), door, BUILDING, shade)
        return
    c.polygon(front.box(0, length, 0, high), look.shop, BUILDING, 0.8 * shade)
    panes = max(1, int(length / 2.4))
    for pane in range(panes):
        left, right = (pane + 0.06) * length / panes, (pane + 0.94) * length / panes
        low = 0.1 if pane == panes // 2 else 0.55
        glass = vary(rng, (300, 260, 180) if c.light.night else (58, 60, 64), 0.4)
        c.polygon(front.box(left, right, low, 0.74 * high), glass, BUILDING, shade)
        if not c.light.night:
            c.polygon(
                front.box(left, right, low, 0.35 * high), vary(rng, (84, 78, 72)), BUILDING, shade
            )
    c.polygon(front.box(0, length, 0.8 * high, high), vary(rng, look.shop), BUILDING, 1.15 * shade)
    name = rng.uniform(0.2, 0.4) * length
    c.polygon(
        front.box(name, length - name, 0.86 * high, 0.94 * high), (210, 200, 170), BUILDING, shade
    )


def tree(c: Canvas, foot: Point, height: float, *, bare: bool = False) -> None:
    """Paints a tree with a leafy crown, or with twigs only."""
    rng = c.rng
    sprite = Sprite(c, foot, TREE, mirror=pick(rng, (-1.0, 1.0)))
    bark = vary(rng, (66, 58, 48) if rng.random() < 0.7 else (96, 92, 84))
    trunk = 0.015 * height + 0.05
    fork = height * rng.uniform(0.22, 0.36)
    base = [(-trunk * 1.3, 0.0), (trunk * 1.3, 0.0), (trunk * 0.7, fork), (-trunk * 0.7, fork)]
    pixels = c.pixels(height, foot[2])
    if bare:
        sprite.polygon(base, bark)
        _branch(sprite, (0.0, fork * 0.95), math.pi / 2, 0.3 * height, trunk * 1.3, bark)
        return
    spread = height * rng.uniform(0.24, 0.36)
    middle = fork + 0.5 * (height - fork)
    sprite.polygon(base, bark)
    for side in (-0.6, 0.5):
        sprite.limb([(0, fork * 0.9), (side * spread, middle)], trunk * 0.7, bark)
    leaf = vary(rng, pick(rng, _LEAVES), 0.2)
    blobs = int(np.clip(pixels / 3, 8, 46))
    angles, radii = rng.uniform(0, 2 * math.pi, blobs), np.sqrt(rng.uniform(0, 1, blobs))
    sizes = rng.uniform(0.22, 0.42, blobs) * spread
    across = np.cos(angles) * radii * (spread - 0.3 * sizes)
    up = np.sin(angles) * radii * ((height - fork) / 2 - 0.4 * sizes)
    lean = -np.sign(c.light.sun[0]) * sprite.mirror * 0.25
    for k in np.argsort(up + rng.uniform(-0.3, 0.3, blobs) * height):
        lit = 0.78 + 0.42 * (up[k] / (0.5 * height) + lean * across[k] / spread)
        lit *= rng.uniform(0.85, 1.12)
        color = (leaf[0] * lit, leaf[1] * lit, leaf[2] * lit)
        _leaves(sprite, float(across[k]), float(middle + up[k]), float(sizes[k]), color)


def _leaves(sprite: Sprite, x: float, y: float, radius: float, color: Color) -> None:
    """An irregular clump of leaves."""
    corners = int(min(30, 8 + radius * sprite.scale / 3))
    reach = (radius * sprite.canvas.rng.uniform(0.7, 1.12, corners)).tolist()
    turn = 2 * math.pi / corners
    sprite.polygon(
        [(x + r * math.cos(k * turn), y + r * math.sin(k * turn)) for k, r in enumerate(reach)],
        color,
    )


def _branch(
    sprite: Sprite,
    start: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    color: Color,
) -> None:
    """A branch and, smaller and smaller, what grows from it."""
    rng = sprite.canvas.rng
    end = (start[0] + length * math.cos(angle), start[1] + length * math.sin(angle))
    sprite.limb([start, end], width, color)
    if length * sprite.scale < 14 or width < 0.012:
        return
    for turn in (-0.5, 0.05, 0.5):
        bend = angle + turn + rng.uniform(-0.2, 0.2)
        _branch(sprite, end, bend, length * rng.uniform(0.55, 0.8), width * 0.55, color)


def hedge(c: Canvas, wall: Wall, height: float) -> None:
    """Paints a clipped hedge with a ragged top."""
    rng = c.rng
    steps = int(np.clip(wall.length * 2, 4, 40))
    tops = height * rng.uniform(0.86, 1.1, steps + 1)
    line = [wall.at(wall.length * k / steps, float(top)) for k, top in enumerate(tops)]
    leaf = vary(rng, pick(rng, _LEAVES), 0.2)
    foot = [wall.at(wall.length, 0), wall.at(0, 0)]
    c.polygon(line + foot, leaf, TREE, 1.0)
    c.polygon(wall.box(0, wall.length, 0, height * 0.5), leaf, TREE, 0.75)


def fence(c: Canvas, wall: Wall, kind: str, base: float = 0.0) -> None:
    """Paints a fence: ``"planks"``, ``"rails"`` (you see through them) or ``"low wall"``."""
    rng, length = c.rng, wall.length
    if kind == "rails":
        steel, high = pick(rng, _STEEL), 1.05
        c.glaze(wall.box(0, length, base, base + high), steel, 105, FENCE)
        for low in (0.1, high - 0.06):
            c.polygon(wall.box(0, length, base + low, base + low + 0.06), steel, FENCE)
        step, thick = 0.25 if c.pixels(0.25, wall.near) > 4 else 1.0, 0.04
    else:
        high = 1.7 if kind == "planks" else 0.8
        color: Color = (112, 92, 72) if kind == "planks" else (124, 96, 80)
        steel = vary(rng, color, 0.25)
        c.polygon(wall.box(0, length, base, base + high), steel, FENCE, 0.95)
        if kind == "low wall":
            c.polygon(wall.box(0, length, base + high - 0.1, base + high), (150, 146, 140), FENCE)
            return
        steel, step, thick = (steel[0] * 0.7, steel[1] * 0.7, steel[2] * 0.7), 0.3, 0.04
    for k in range(int(min(length / step, 140)) + 1):
        left = min(k * step, length - thick)
        if c.pixels(step, max(0.5, wall.at(left, 0)[2])) > 1.5:
            c.polygon(wall.box(left, left + thick, base, base + high), steel, FENCE)


def street_lamp(c: Canvas, foot: Point, height: float, arm: float) -> None:
    """Paints a lamp post whose arm reaches ``arm`` metres to the right (left if negative)."""
    steel, sprite = vary(c.rng, pick(c.rng, _STEEL)), Sprite(c, foot, POLE)
    sprite.limb([(0, 0), (0, 1.3)], 0.22, steel)
    sprite.limb(
        [(0, 1.2), (0, height - 0.4), (0.15 * arm, height), (arm, height + 0.1)], 0.13, steel
    )
    head = [(arm, height), (1.45 * arm, height + 0.05), (1.45 * arm, height + 0.2)]
    glow: Color = (700, 560, 330) if c.light.night else (170, 172, 170)
    sprite.polygon([*head, (arm, height + 0.22)], glow)


def street_sign(c: Canvas, foot: Point) -> None:
    """Paints a traffic sign, round, triangular or rectangular, on a thin post."""
    rng, sprite = c.rng, Sprite(c, foot, SIGN)
    high = rng.uniform(2.1, 2.8)
    sprite.limb([(0, 0), (0, high + 0.3)], 0.09, (120, 122, 122), POLE)
    kind, size = int(rng.integers(4)), rng.uniform(0.28, 0.42)
    red, white, blue = (176, 32, 36), (214, 214, 210), (36, 66, 146)
    if kind == 0:
        sprite.disc(0, high, size, red)
        sprite.disc(0, high, 0.72 * size, white)
        sprite.limb([(-0.2 * size, high), (0.2 * size, high)], 0.35 * size, (40, 40, 42))
    elif kind == 1:
        size *= 1.15
        for grow, color in ((1.0, red), (0.6, white)):
            reach = grow * size
            sprite.polygon(
                [(-reach, high - 0.55 * reach), (reach, high - 0.55 * reach), (0, high + reach)],
                color,
            )
    elif kind == 2:
        sprite.disc(0, high, size, blue)
        sprite.limb([(0, high - 0.5 * size), (0, high + 0.4 * size)], 0.22 * size, white)
    else:
        wide, tall = size * rng.uniform(0.7, 1.5), size * rng.uniform(0.8, 1.5)
        color = pick(rng, (blue, white, (196, 170, 40), (30, 84, 60)))
        ink = white if color != white else (40, 42, 46)
        corners = [(-wide, -tall), (wide, -tall), (wide, tall), (-wide, tall)]
        sprite.polygon([(x, high + y) for x, y in corners], color)
        for row in (-0.4, 0.1, 0.55):
            ends = [(-0.6 * wide, high + row * tall), (0.5 * wide, high + row * tall)]
            sprite.limb(ends, 0.18 * tall, ink)


def traffic_light(c: Canvas, foot: Point) -> None:
    """Paints a traffic light on its post."""
    sprite, on = Sprite(c, foot, SIGN), int(c.rng.integers(3))
    sprite.limb([(0, 0), (0, 2.3)], 0.13, (72, 74, 76), POLE)
    sprite.polygon([(-0.24, 2.2), (0.24, 2.2), (0.24, 3.3), (-0.24, 3.3)], (34, 36, 38))
    lamps: tuple[Color, ...] = ((60, 255, 150), (255, 180, 40), (255, 50, 40))
    for k, color in enumerate(lamps):
        gain = 1.0 / c.light.gain[1] if k == on else 0.18
        color = (color[0] * gain, color[1] * gain, color[2] * gain)
        sprite.disc(0, 2.41 + 0.33 * k, 0.115, color)


def bollard(c: Canvas, foot: Point) -> None:
    """Paints a waist-high post."""
    sprite = Sprite(c, foot, POLE)
    sprite.limb([(0, 0), (0, 1.0)], 0.16, (46, 48, 50))
    sprite.limb([(0, 0.78), (0, 0.9)], 0.17, (180, 178, 170))
