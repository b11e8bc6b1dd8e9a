"""Those who move in drawn street scenes: people, bicycles and vehicles.

Each function paints one of them and its label on a ``Canvas``. Lengths are in metres; ``foot`` is
the world point on which it stands.
"""

from __future__ import annotations

import math

import numpy as np

from torchseg_zoo.data.datasets._drawing import (
    BICYCLIST,
    CAR,
    PEDESTRIAN,
    Canvas,
    Color,
    Point,
    Sprite,
    pick,
    vary,
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


# Side outlines of vehicles, tail to nose, (along, up): sill, bumper, belt, foot and top of the rear
# window, top and foot of the windscreen, nose, bumper, sill.
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
        """Part of the surface over one edge; shares of its width (-1..1) and height (0..1)."""
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
        inner = along * 0.72
        for side in (-1, 1):
            strip = [(inner, 0.0), (inner, 0.4)]
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
        c.polygon(body.band(edge, -0.85, 0.1, 0.55, 0.9), (74, 82, 90), CAR, 0.8)
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
        for grow, color in ((1.15, (18, 18, 20)), (1.0, (30, 30, 32)), (0.55, (112, 114, 116))):
            rim = [
                (
                    along + grow * radius * math.cos(a),
                    max(0.0, radius + grow * radius * math.sin(a)),
                )
                for a in turns
            ]
            c.polygon(body.flank(rim, side, 0.01), color, CAR)
