"""The things in drawn street scenes: houses, plants, street furniture, vehicles and people.

Each function paints one thing and its label on a ``Canvas``. Lengths are in metres; ``foot`` is the world
point on which a thing stands, and ``ahead`` and ``side`` are unit vectors (x, z) on the ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from torchseg_zoo.data.datasets._drawing import Canvas, Color, Point, Sprite, pick, vary

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

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
_PAINTS: tuple[Color, ...] = (
    (168, 172, 176),
    (140, 144, 150),
    (30, 32, 36),
    (44, 58, 100),
    (136, 24, 26),
    (206, 208, 206),
    (70, 76, 80),
    (38, 78, 64),
    (60, 96, 140),
)
_CLOTHES: tuple[Color, ...] = (
    (36, 36, 42),
    (48, 52, 70),
    (30, 34, 52),
    (84, 44, 42),
    (110, 104, 96),
    (64, 72, 60),
    (150, 60, 50),
    (160, 160, 158),
)
_SKIN: tuple[Color, ...] = ((205, 160, 135), (150, 108, 84), (96, 68, 54))
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
    trunk = 0.025 * height + 0.06
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
    corners = 9 if radius * sprite.scale < 10 else 17
    reach = radius * sprite.canvas.rng.uniform(0.6, 1.2, corners)
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
    kind, size = int(rng.integers(4)), rng.uniform(0.36, 0.5)
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
        wide, tall = size * rng.uniform(0.8, 1.6), size * rng.uniform(0.9, 1.5)
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
    sprite.polygon([(-0.32, 2.1), (0.32, 2.1), (0.32, 3.35), (-0.32, 3.35)], (34, 36, 38))
    lamps: tuple[Color, ...] = ((60, 255, 150), (255, 180, 40), (255, 50, 40))
    for k, color in enumerate(lamps):
        gain = 1.0 / c.light.gain[1] if k == on else 0.18
        color = (color[0] * gain, color[1] * gain, color[2] * gain)
        sprite.disc(0, 2.35 + 0.37 * k, 0.13, color)


def bollard(c: Canvas, foot: Point) -> None:
    """Paints a waist-high post."""
    sprite = Sprite(c, foot, POLE)
    sprite.limb([(0, 0), (0, 1.0)], 0.16, (46, 48, 50))
    sprite.limb([(0, 0.78), (0, 0.9)], 0.17, (180, 178, 170))


def pedestrian(c: Canvas, foot: Point) -> None:
    """Paints somebody standing or walking."""
    rng = c.rng
    tall, stride = rng.uniform(1.45, 1.9), rng.uniform(0.02, 0.28)
    sprite = Sprite(c, foot, PEDESTRIAN, mirror=pick(rng, (-1.0, 1.0)))
    coat, legs = vary(rng, pick(rng, _CLOTHES), 0.3), vary(rng, pick(rng, _CLOTHES[:4]), 0.3)
    skin, hair = pick(rng, _SKIN), pick(rng, ((40, 32, 28), (70, 52, 38), (120, 100, 70)))
    hip, neck, wide = 0.5 * tall, 0.84 * tall, rng.uniform(0.105, 0.14) * tall
    for side, dark in ((1, 0.8), (-1, 1.0)):
        tone = (legs[0] * dark, legs[1] * dark, legs[2] * dark)
        ankle = (side * stride * 0.5 * tall + side * 0.04, 0.05)
        knee = (0.7 * ankle[0] + 0.03 * tall, 0.27 * tall)
        sprite.limb([(side * 0.045 * tall, hip), knee, ankle], 0.085 * tall, tone)
        sprite.limb([ankle, (ankle[0] + 0.09, 0.04)], 0.07, (28, 26, 26))
    hem = hip - rng.uniform(0.0, 0.14) * tall
    torso = [(-wide, hem), (wide, hem), (0.85 * wide, 0.68 * tall), (wide, neck - 0.06 * tall)]
    torso += [(0.3 * wide, neck), (-0.3 * wide, neck), (-wide, neck - 0.06 * tall)]
    sprite.polygon(torso, coat)
    sleeve = (coat[0] * 0.82, coat[1] * 0.82, coat[2] * 0.82)
    for side in (-1, 1):
        hand = (side * (wide + 0.02) + side * 0.5 * stride * 0.4 * tall, hip - 0.01 * tall)
        elbow = (side * (wide + 0.03 * tall), 0.65 * tall)
        sprite.limb([(side * 0.9 * wide, neck - 0.05 * tall), elbow, hand], 0.065 * tall, sleeve)
        sprite.disc(*hand, 0.028 * tall, skin)
    if rng.random() < 0.35:
        bag = pick(rng, _CLOTHES)
        left, low = wide * 0.6, hip - 0.05 * tall
        sprite.polygon(
            [(left, low), (left + 0.22, low), (left + 0.2, low + 0.28), (left, low + 0.28)], bag
        )
    sprite.limb([(0, neck - 0.01), (0, neck + 0.04 * tall)], 0.06 * tall, skin)
    sprite.disc(0, 0.92 * tall, 0.062 * tall, hair if rng.random() < 0.5 else skin)
    cap = [(-0.066, 0.92), (-0.05, 0.975), (0, 0.995), (0.05, 0.975), (0.066, 0.92), (0, 0.945)]
    sprite.polygon([(x * tall, y * tall) for x, y in cap], hair)


def cyclist(c: Canvas, foot: Point, *, sideways: bool = False) -> None:
    """Paints somebody on a bicycle, seen from behind or from the side."""
    rng = c.rng
    sprite = Sprite(c, foot, BICYCLIST, mirror=pick(rng, (-1.0, 1.0)))
    shirt, legs = vary(rng, pick(rng, _CLOTHES), 0.3), pick(rng, _CLOTHES[:4])
    skin, bike = pick(rng, _SKIN), vary(rng, pick(rng, _PAINTS))
    helmet = pick(rng, ((206, 206, 200), (40, 42, 46), (150, 40, 36), (60, 46, 36)))
    black, near = (26, 26, 28), (legs[0] * 1.2, legs[1] * 1.2, legs[2] * 1.2)
    if sideways:
        for x in (-0.54, 0.54):
            sprite.disc(x, 0.34, 0.35, black)
            sprite.disc(x, 0.34, 0.29, (96, 98, 100))
            sprite.disc(x, 0.34, 0.05, black)
        frame = [(-0.54, 0.34), (-0.2, 0.85), (0.4, 0.85), (-0.02, 0.32), (-0.54, 0.34)]
        sprite.limb(frame, 0.05, bike)
        sprite.limb([(0.54, 0.34), (0.38, 0.95), (0.52, 1.02)], 0.05, bike)
        sprite.limb([(-0.2, 0.95), (0.18, 0.62), (0.08, 0.2)], 0.13, legs)
        sprite.limb([(-0.2, 0.95), (0.22, 0.72), (-0.06, 0.42)], 0.14, near)
        sprite.polygon([(-0.32, 0.9), (-0.08, 0.9), (0.3, 1.42), (0.16, 1.56), (0.0, 1.5)], shirt)
        sprite.limb([(0.2, 1.42), (0.3, 1.15), (0.5, 1.04)], 0.09, shirt)
        sprite.limb([(0.2, 1.45), (0.28, 1.58)], 0.09, skin)
        sprite.disc(0.3, 1.65, 0.11, skin)
        head, top = 0.28, 1.68
    else:
        sprite.limb([(0, 0.02), (0, 0.66)], 0.08, black)
        sprite.limb([(-0.3, 1.02), (0.3, 1.02)], 0.05, black)
        for side, lift in ((-1, 0.0), (1, 0.22)):
            knee = (side * 0.17, 0.55 + lift)
            sprite.limb([(side * 0.09, 0.95), knee, (side * 0.12, 0.18 + lift)], 0.14, near)
            sprite.limb([(side * 0.12, 0.16 + lift), (side * 0.14, 0.12 + lift)], 0.1, black)
            sprite.limb([(side * 0.19, 1.42), (side * 0.31, 1.22), (side * 0.28, 1.03)], 0.1, shirt)
        sprite.disc(0, 0.9, 0.17, legs)
        back = [(-0.15, 0.9), (0.15, 0.9), (0.23, 1.4), (0.1, 1.53), (-0.1, 1.53), (-0.23, 1.4)]
        sprite.polygon(back, shirt)
        sprite.disc(0, 0.7, 0.04, (220, 30, 26))
        sprite.limb([(0, 1.5), (0, 1.6)], 0.1, skin)
        sprite.disc(0, 1.66, 0.11, skin)
        head, top = 0.0, 1.68
    cap = [
        (head + 0.13 * math.cos(a), top + 0.13 * math.sin(a)) for a in np.linspace(0, math.pi, 9)
    ]
    sprite.polygon(cap, helmet)


# Side outlines of vehicles, tail to nose, (along, up): sill, bumper, belt, foot and top of the rear window,
# top and foot of the windscreen, nose, bumper, sill.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "hatchback": (
        *((-1.9, 0.28), (-2.0, 0.55), (-1.95, 0.92), (-1.9, 0.97), (-1.55, 1.46)),
        *((0.1, 1.48), (0.95, 0.98), (1.75, 0.8), (1.95, 0.5), (1.9, 0.28)),
    ),
    "saloon": (
        *((-2.2, 0.3), (-2.3, 0.55), (-2.25, 0.95), (-1.7, 1.0), (-1.1, 1.42)),
        *((0.15, 1.44), (1.0, 0.98), (2.0, 0.78), (2.25, 0.5), (2.15, 0.3)),
    ),
    "estate": (
        *((-2.2, 0.3), (-2.3, 0.6), (-2.22, 1.02), (-2.2, 1.05), (-1.9, 1.62)),
        *((0.2, 1.66), (1.0, 1.08), (1.95, 0.9), (2.25, 0.55), (2.15, 0.3)),
    ),
    "van": (
        *((-2.5, 0.35), (-2.6, 0.6), (-2.58, 1.2), (-2.56, 1.25), (-2.5, 2.2)),
        *((1.0, 2.2), (1.8, 1.3), (2.4, 1.05), (2.6, 0.6), (2.5, 0.35)),
    ),
    "bus": (
        *((-4.6, 0.35), (-4.7, 0.7), (-4.7, 1.3), (-4.7, 1.35), (-4.62, 3.0)),
        *((4.5, 3.0), (4.68, 1.3), (4.7, 1.2), (4.7, 0.7), (4.6, 0.35)),
    ),
}


class _Body:
    """A vehicle's own coordinates: ``along`` its heading, ``across`` to its right, up."""

    def __init__(self, c: Canvas, foot: Point, heading: float, kind: str) -> None:
        self.c, self.foot, self.outline = c, foot, _OUTLINES[kind]
        self.ahead = (math.sin(heading), math.cos(heading))
        self.half = {"van": 0.95, "bus": 1.25}.get(kind, 0.85)
        self.slope = 0.04 if kind in ("van", "bus") else 0.3
        ax, az = self.ahead
        self.eye = (-foot[0] * ax - foot[2] * az, -foot[0] * az + foot[2] * ax, c.eye_m)

    def wide(self, up: float) -> float:
        """Half the width at a height; the cabin tapers."""
        return self.half - self.slope * max(0.0, up - self.outline[2][1])

    def at(self, along: float, across: float, up: float) -> Point:
        """World point of a point of the vehicle."""
        (ax, az), (x, y, z) = self.ahead, self.foot
        return (x + along * ax + across * az, y + up, z + along * az - across * ax)

    def band(self, edge: int, left: float, right: float, low: float, high: float) -> list[Point]:
        """Part of the surface over one edge of the outline; shares of its width (-1..1) and height."""
        (a0, u0), (a1, u1) = self.outline[edge], self.outline[edge + 1]
        if edge >= 5:  # the nose side runs downwards
            (a0, u0), (a1, u1) = (a1, u1), (a0, u0)
        bottom = (a0 + (a1 - a0) * low, u0 + (u1 - u0) * low)
        top = (a0 + (a1 - a0) * high, u0 + (u1 - u0) * high)
        return [
            self.at(along, share * self.wide(up), up)
            for (along, up), share in ((bottom, left), (bottom, right), (top, right), (top, left))
        ]

    def flank(
        self, corners: list[tuple[float, float]], side: int, bulge: float = 0.0
    ) -> list[Point]:
        """Outline on the left (-1) or right (1) side."""
        return [self.at(a, side * (self.wide(u) + bulge), u) for a, u in corners]

    def sees(self, edge: int) -> bool:
        """Whether the surface over an edge faces the camera."""
        (a0, u0), (a1, u1) = self.outline[edge], self.outline[edge + 1]
        return (u0 - u1) * (self.eye[0] - a0) + (a1 - a0) * (self.eye[2] - u0) > 0


def vehicle(
    c: Canvas, foot: Point, heading: float, kind: str = "hatchback", *, lights: bool = False
) -> None:
    """Paints a vehicle from its own outline, hidden sides left out.

    Args:
        heading: radians clockwise from straight ahead; 0 shows its tail.
        lights: whether its lamps shine.
    """
    body, paint = _Body(c, foot, heading, kind), vary(c.rng, pick(c.rng, _PAINTS))
    glass = vary(c.rng, (40, 46, 54), 0.25)
    _tyres(body)
    side = 1 if body.eye[1] > 0 else -1
    # The tail hides the flank's far end and the flank the nose, or the other way round.
    tail_first = body.eye[0] > 0
    order = range(9) if tail_first else range(8, -1, -1)
    flank_after = 4
    for edge in order:
        if edge == flank_after and abs(body.eye[1]) > body.half:
            _flank(body, side, paint, glass, kind)
        if body.sees(edge):
            _surface(body, edge, paint, glass, lights)


def _tyres(body: _Body) -> None:
    black, ends = (22, 22, 24), (body.outline[0][0], body.outline[-1][0])
    wide = body.half
    for along in ends if body.eye[0] > 0 else ends[::-1]:
        inner = along * 0.8
        for side in (-1, 1):
            strip = [(inner, 0.0), (inner, 0.5)]
            corners = [body.at(a, side * wide * 0.98, u) for a, u in strip]
            corners += [body.at(a, side * wide * 0.74, u) for a, u in reversed(strip)]
            body.c.polygon(corners, black, CAR)
    sill = [body.at(a, s * wide * 0.9, 0.2) for a, s in ((ends[0], -1), (ends[0], 1))]
    sill += [body.at(a, s * wide * 0.9, 0.2) for a, s in ((ends[1], 1), (ends[1], -1))]
    body.c.polygon(sill, black, CAR)
    end = ends[0] if body.eye[0] < 0 else ends[1]
    skirt = [(-1, 0.18), (1, 0.18), (1, 0.32), (-1, 0.32)]
    body.c.polygon([body.at(end, s * wide * 0.95, u) for s, u in skirt], black, CAR)


_SHADES = (0.62, 0.85, 0.95, 0.9, 1.18, 1.0, 1.12, 0.85, 0.62)


def _surface(body: _Body, edge: int, paint: Color, glass: Color, lights: bool) -> None:
    """One strip across the vehicle: bumper, tail, window, roof, bonnet or nose."""
    c = body.c
    c.polygon(body.band(edge, -1, 1, 0, 1), paint, CAR, _SHADES[edge])
    if edge in (3, 5):
        c.polygon(body.band(edge, -0.88, 0.88, 0.06, 0.92), glass, CAR)
        c.polygon(body.band(edge, -0.85, 0.1, 0.55, 0.9), (96, 106, 116), CAR, 0.8)
    if edge not in (1, 7) or c.pixels(1, body.foot[2]) < 4:
        return
    rear = edge == 1
    lamp: Color = (150, 22, 20) if rear else (214, 216, 214)
    if lights:
        lamp = (330, 46, 36) if rear else (520, 500, 430)
    for left in (-0.97, 0.67):
        c.polygon(body.band(edge, left, left + 0.3, 0.45, 0.9), lamp, CAR)
    plate: Color = (206, 178, 60) if rear else (200, 200, 196)
    c.polygon(body.band(edge, -0.3, 0.3, 0.2, 0.42), plate, CAR, 0.95)
    if not rear:
        c.polygon(body.band(edge, -0.5, 0.5, 0.5, 0.8), (36, 38, 40), CAR)
    c.polygon(body.band(edge, -1, 1, 0, 0.07), (40, 42, 44), CAR)


def _flank(body: _Body, side: int, paint: Color, glass: Color, kind: str) -> None:
    """The side towards the camera: panels, windows, wheels."""
    c, line = body.c, list(body.outline)
    c.polygon(body.flank(line, side), paint, CAR, 0.8)
    c.polygon(body.flank([line[0], line[1], line[8], line[9]], side), paint, CAR, 0.62)
    (b0, v0), (b1, v1), (t1, w1), (t0, w0) = line[3], line[6], line[5], line[4]

    def window(start: float, end: float) -> None:
        low = [(b0 + (b1 - b0) * s, v0 + (v1 - v0) * s + 0.03) for s in (start, end)]
        high = [(t0 + (t1 - t0) * s, w0 + (w1 - w0) * s - 0.09) for s in (end, start)]
        c.polygon(body.flank(low + high, side), glass, CAR)

    panes = {"van": ((0.78, 0.96),), "bus": tuple((k / 7 + 0.02, k / 7 + 0.13) for k in range(7))}
    for start, end in panes.get(kind, ((0.06, 0.44), (0.48, 0.93))):
        window(start, end)
    if c.pixels(1, body.foot[2]) > 12:
        for along in (-0.55, 0.75) if kind != "bus" else (-2.0, 3.0):
            seam = [(along, 0.35), (along + 0.03, 0.35), (along + 0.03, v0), (along, v0)]
            c.polygon(body.flank(seam, side), paint, CAR, 0.5)
    radius = 0.45 if kind == "bus" else 0.33
    turns = [2 * math.pi * k / 16 for k in range(16)]
    for along in (0.66 * line[0][0], 0.68 * line[9][0]):
        for grow, color in ((1.22, (18, 18, 20)), (1.0, (30, 30, 32)), (0.6, (138, 140, 142))):
            rim = [
                (
                    along + grow * radius * math.cos(a),
                    max(0.0, radius + grow * radius * math.sin(a)),
                )
                for a in turns
            ]
            c.polygon(body.flank(rim, side, 0.01), color, CAR)
