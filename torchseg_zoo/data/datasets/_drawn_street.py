"""The layout of drawn street scenes: ground, frontages, pavements, traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from torchseg_zoo.data.datasets import _drawn_things as things
from torchseg_zoo.data.datasets import _drawn_traffic as movers
from torchseg_zoo.data.datasets._drawing import (
    PAVEMENT,
    ROAD,
    TREE,
    Canvas,
    Color,
    Point,
    pick,
    vary,
)
from torchseg_zoo.data.datasets._drawn_things import Wall

_KERB_M = 0.12
_WHITE: Color = (196, 196, 190)
_YELLOW: Color = (178, 152, 78)


class Street:
    """One scene: the ground, and what stands on it.

    Road coordinates are metres to the right of the road's middle and ahead of the camera; ``at``
    bends them into the world. Traffic keeps left.
    """

    def __init__(self, rng: np.random.Generator, canvas: Canvas) -> None:
        self.rng, self.c = rng, canvas
        self.lane = rng.uniform(2.8, 3.6)
        self.parking = (
            2.1 if rng.random() < 0.36 else 0.0,
            2.1 if rng.random() < 0.36 else 0.0,
        )
        self.kerb = (-self.lane - self.parking[0], self.lane + self.parking[1])
        self.walk = (rng.uniform(1.6, 4.0), rng.uniform(1.6, 4.0))
        self.camera = -self.lane * rng.uniform(0.35, 0.65)
        self.bend = rng.uniform(-1, 1) * 0.0012 if rng.random() < 0.6 else 0.0
        self.crossing = (z0 := rng.uniform(14, 50), z0 + rng.uniform(7, 11))
        self.crossed = (rng.random() < 0.4, rng.random() < 0.4)
        self.far = 170.0
        if rng.random() < 0.25:  # the road ends at a junction
            self.far = rng.uniform(32, 80)
            self.crossing, self.crossed = (self.far - rng.uniform(7, 10), self.far), (True, True)
        self.grassy = rng.random() < 0.3
        self.storeys = int(rng.integers(2, 5))
        self.bare = rng.random() < 0.35
        self.things: list[tuple[float, Callable[[], None]]] = []

    def at(self, x: float, z: float, y: float = 0.0) -> Point:
        """World point of a road point."""
        return (x - self.camera + self.bend * z * abs(z), y, z)

    def edge(self, side: int) -> float:
        """Outer edge of the pavement on the left (0) or right (1)."""
        return self.kerb[side] + (self.walk[side] if side else -self.walk[side])

    def add(self, z: float, paint: Callable[[], None]) -> None:
        """Notes a thing to be painted at a distance; drops it where the view ends."""
        if z < self.far + 20:
            self.things.append((z, paint))

    def paint(self) -> tuple[np.ndarray, np.ndarray]:
        """Paints ground, shadows and things, far to near."""
        self.c.lay_shadows()
        for _, paint in sorted(self.things, key=lambda thing: -thing[0]):
            paint()
        return self.c.finish()

    def lay_out(self) -> None:
        """Paints the ground, and decides on everything that stands on it."""
        self.ground()
        self.backdrop()
        for side in (0, 1):
            self.frontage(side)
            self.pavement_things(side)
            self.parked(side)
        self.traffic()

    # Ground

    def strip(
        self,
        left: float,
        right: float,
        z0: float,
        z1: float,
        color: Color,
        label: int,
        y: float = 0,
    ) -> None:
        """Paints a lengthwise strip of ground, bent with the road."""
        if z0 >= z1:
            return
        steps = 2 if z1 - z0 < 8 or not self.bend else 14
        ratio = (z1 + 4) / (z0 + 4)
        depths = [(z0 + 4) * ratio ** (k / (steps - 1)) - 4 for k in range(steps)]
        outline = [self.at(left, z, y) for z in depths]
        outline += [self.at(right, z, y) for z in reversed(depths)]
        self.c.polygon(outline, color, label)

    def ground(self) -> None:
        """Paints verges, pavements, road and marks."""
        rng, c = self.rng, self.c
        asphalt = vary(rng, (84, 86, 89), 0.18)
        slabs = vary(rng, pick(rng, ((112, 108, 104), (98, 97, 98), (122, 114, 106))), 0.15)
        verge: tuple[Color, int] = (vary(rng, (96, 110, 62), 0.2), TREE)
        if not self.grassy:
            verge = (slabs, PAVEMENT)
        c.polygon([(-900, 0, 0.4), (900, 0, 0.4), (900, 0, 400), (-900, 0, 400)], *verge)
        for side, sign in ((0, -1.0), (1, 1.0)):
            inner = self.kerb[side]
            shade = (slabs[0] * 0.7, slabs[1] * 0.7, slabs[2] * 0.7)
            self.strip(inner, inner + sign, 0.3, self.far, shade, PAVEMENT)
            self.strip(inner, self.edge(side), 0.3, self.far, slabs, PAVEMENT, _KERB_M)
            self.slab_joints(side, slabs)
            kerb = (slabs[0] * 1.15, slabs[1] * 1.15, slabs[2] * 1.15)
            self.strip(inner, inner + sign * 0.16, 0.3, self.far, kerb, PAVEMENT, _KERB_M)
        self.strip(self.kerb[0], self.kerb[1], 0.3, self.far, asphalt, ROAD)
        for side, sign in ((0, -1.0), (1, 1.0)):
            inner = self.kerb[side]
            if self.crossed[side]:
                z0, z1 = self.crossing
                far = self.edge(side) + sign * 80
                self.strip(
                    min(inner - sign * 0.2, far),
                    max(inner - sign * 0.2, far),
                    z0,
                    z1,
                    asphalt,
                    ROAD,
                )
        self.road_wear(asphalt)
        self.marks()

    def slab_joints(self, side: int, slabs: Color) -> None:
        """Joints between the paving slabs near the camera."""
        step = self.rng.uniform(0.7, 1.4)
        for k in range(int(22 / step)):
            z = 1 + k * step
            left, right = sorted((self.kerb[side], self.edge(side)))
            joint = [self.at(x, d, _KERB_M) for x, d in ((left, z), (right, z))]
            joint += [self.at(x, d, _KERB_M) for x, d in ((right, z + 0.04), (left, z + 0.04))]
            self.c.polygon(joint, slabs, PAVEMENT, 0.86)

    def road_wear(self, asphalt: Color) -> None:
        """Patches, wheel tracks and manhole covers."""
        rng = self.rng
        for track in (-0.72, -0.28, 0.28, 0.72):
            x, shade = track * self.lane, rng.uniform(0.985, 1.005)
            color = (asphalt[0] * shade, asphalt[1] * shade, asphalt[2] * shade)
            self.strip(x - 0.35, x + 0.35, 0.3, 90, color, ROAD)
        for _ in range(int(rng.integers(0, 4))):
            x, z = rng.uniform(*self.kerb), rng.uniform(4, 30)
            wide, long = rng.uniform(0.5, 1.8), rng.uniform(0.8, 6)
            right = min(x + wide, self.kerb[1])
            self.strip(x, right, z, z + long, vary(rng, asphalt, 0.15), ROAD)
        for _ in range(int(rng.integers(0, 3))):
            x, z = rng.uniform(-0.8, 0.8) * self.lane, rng.uniform(5, 25)
            turns = np.linspace(0, 2 * math.pi, 14, endpoint=False)
            rim = [self.at(x + 0.35 * math.cos(a), z + 0.35 * math.sin(a)) for a in turns]
            self.c.polygon(rim, (66, 65, 66), ROAD)

    def marks(self) -> None:
        """Lane marks, edge lines and, sometimes, a zebra crossing."""
        rng = self.rng
        white = vary(rng, _WHITE, 0.12)
        dash, gap = pick(rng, ((2.0, 4.0), (4.0, 2.0), (3.0, 3.0), (500.0, 0.0)))
        z = rng.uniform(0.3, 4)
        while z < 110:
            self.strip(-0.07, 0.07, z, min(z + dash, 120), white, ROAD)
            z += dash + gap
        for side, sign in ((0, 1.0), (1, -1.0)):
            style = rng.random()
            if self.parking[side]:
                if style < 0.5:
                    x = self.kerb[side] + sign * 2.1
                    self.strip(x - 0.05, x + 0.05, 0.3, 60, white, ROAD)
            elif style < 0.5:
                for inset in (0.25, 0.45)[: 1 + int(style < 0.3)]:
                    x = self.kerb[side] + sign * inset
                    self.strip(x - 0.04, x + 0.04, 0.3, 60, _YELLOW, ROAD)
        if rng.random() < 0.2:
            z = rng.uniform(8, 25)
            for k in range(int((self.kerb[1] - self.kerb[0]) / 1.2)):
                x = self.kerb[0] + 0.3 + 1.2 * k
                self.strip(x, x + 0.6, z, z + 3, white, ROAD)

    # What stands along the road

    def backdrop(self) -> None:
        """Trees and houses that close the view at the far end."""
        rng = self.rng
        middle = self.at(0, self.far)[0]
        for k in range(-12, 13):
            x, z = middle + k * 9 + rng.uniform(-3, 3), self.far + 5 + rng.uniform(0, 8)
            if rng.random() < 0.55:
                look = things.make_house(rng, int(rng.integers(2, 5)))
                wall = Wall((x - 7, z), (x + 7, z))
                self.add(z, partial(things.house, self.c, look, wall, (0.0, 8.0), (0.85, 0.8, 0.9)))
            else:
                self.add(z, partial(things.tree, self.c, (x, 0, z), rng.uniform(8, 14)))

    def wall(self, x: float, z0: float, z1: float) -> Wall:
        """Upright plane along the road."""
        (x0, _, _), (x1, _, _) = self.at(x, z0), self.at(x, z1)
        return Wall((x0, z0), (x1, z1))

    def frontage(self, side: int) -> None:
        """Fills one side of the road with houses and gardens."""
        rng, sign = self.rng, 1.0 if side else -1.0
        built = rng.choice((0.35, 0.75, 0.95, 0.95))
        setback = pick(rng, (0.0, 0.0, 0.0, 0.0, 3.0, 6.0))
        look = things.make_house(rng, self.storeys)
        z = -6.0
        while z < self.far:
            long = rng.uniform(6, 16) * (1 + max(z, 0) / 80)
            z1 = z + long
            if self.crossed[side] and z1 > self.crossing[0] and z < self.crossing[1] + 1:
                if self.crossing[0] - z < 3:
                    self.far_corner(side)
                    z = self.crossing[1] + 1
                    continue
                z1 = self.crossing[0]
            x = self.edge(side) + sign * (0.05 + setback)
            if rng.random() < built:
                if rng.random() < 0.7:
                    storeys = int(np.clip(self.storeys + rng.integers(-1, 2), 1, 5))
                    look = things.make_house(rng, storeys)
                self.house(look, side, x, z, z1)
                if setback:
                    self.garden_edge(side, z, z1)
            else:
                self.garden(side, z, z1)
            z = z1

    def house(self, look: things.House, side: int, x: float, z0: float, z1: float) -> None:
        """Adds a house whose front is along the road, and its shadow."""
        sign, (sun_x, sun_z) = (1.0 if side else -1.0), self.c.light.sun
        front = self.wall(x, z0, z1)
        lit = 1.12 if sun_x * sign > 0 else 0.68 if sun_x else 0.88
        gable = 1.05 if sun_z > 0.1 else 0.62 if sun_x else 0.78
        back = (sign * self.rng.uniform(8, 12), 0.0)
        self.add(
            z1, partial(things.house, self.c, look, front, back, (lit, gable, 0.85 * lit + 0.1))
        )
        high = look.height_m
        shift = (sun_x * high, sun_z * high)
        foot = [front.at(0, 0), front.at(front.length, 0)]
        if sun_x:
            self.c.shadow([*foot, *((p[0] + shift[0], 0.0, p[2] + shift[1]) for p in foot[::-1])])
        rim = [self.at(x - sign * 0.5, z1), self.at(x - sign * 0.5, z0)]
        self.c.shadow([*foot, *rim], 0.35)

    def far_corner(self, side: int) -> None:
        """Closes the view into a side road."""
        rng, sign, z = self.rng, (1.0 if side else -1.0), self.crossing[1] + 2.5
        x = self.at(self.edge(side), z)[0] + sign * 12
        for _ in range(4):
            wide = rng.uniform(7, 13)
            ends = sorted((x, x + sign * wide))
            if rng.random() < 0.65:
                look = things.make_house(rng, int(rng.integers(1, 4)))
                wall = Wall((ends[0], z), (ends[1], z))
                shades = (0.9, 0.75, 0.9)
                self.add(z + 0.5, partial(things.house, self.c, look, wall, (0.0, 8.0), shades))
            else:
                self.tree(x + sign * wide / 2, z + 2, rng.uniform(6, 10))
            x += sign * wide

    def garden(self, side: int, z0: float, z1: float) -> None:
        """Adds an open plot: an edge along the pavement, trees and hedges behind."""
        rng, sign = self.rng, 1.0 if side else -1.0
        self.garden_edge(side, z0, z1)
        x = self.edge(side)
        for _ in range(int(rng.integers(1, 4))):
            z = rng.uniform(max(z0, 2), max(z1, 3))
            away = rng.uniform(1.5, 9)
            foot = self.at(x + sign * away, z)
            self.tree(foot[0], z, rng.uniform(5, 11), key=z1 + away / 20)
        if rng.random() < 0.7:
            far = self.wall(x + sign * 10, z0, z1)
            self.add(z1 + 1, partial(things.hedge, self.c, far, rng.uniform(2, 5)))

    def garden_edge(self, side: int, z0: float, z1: float) -> None:
        """Adds a hedge, fence or nothing behind the pavement."""
        rng, sign = self.rng, 1.0 if side else -1.0
        wall = self.wall(self.edge(side) + sign * 0.05, z0, z1)
        kind = pick(rng, ("hedge", "planks", "rails", "low wall", ""))
        if kind == "hedge":
            self.add(z1 - 0.1, partial(things.hedge, self.c, wall, rng.uniform(0.9, 2.2)))
        elif kind:
            self.add(z1 - 0.1, partial(things.fence, self.c, wall, kind))

    def tree(self, x: float, z: float, height: float, key: float | None = None) -> None:
        """Adds a tree at a world point, and its shadow."""
        if z < 6:
            return
        bare = self.bare and self.rng.random() < 0.75
        self.add(
            z if key is None else key, partial(things.tree, self.c, (x, 0, z), height, bare=bare)
        )
        sun_x, sun_z = self.c.light.sun
        if sun_x:
            turns = np.linspace(0, 2 * math.pi, 12, endpoint=False)
            reach = 0.3 * height * self.rng.uniform(0.7, 1.1, 12)
            x, z = x + sun_x * 0.65 * height, z + sun_z * 0.65 * height
            blob = zip(turns, reach, strict=True)
            rim = [(x + r * math.cos(a), 0.0, z + r * math.sin(a)) for a, r in blob]
            self.c.shadow(rim, 0.5 if bare else 0.9)

    def cast(self, foot: Point, height: float, wide: float) -> None:
        """Shadow of something upright and thin."""
        sun_x, sun_z = self.c.light.sun
        x, _, z = foot
        tip_x, tip_z = x + sun_x * height, z + sun_z * height
        if sun_x:
            self.c.shadow(
                [
                    (x, 0, z - wide),
                    (x, 0, z + wide),
                    (tip_x, 0, tip_z + wide),
                    (tip_x, 0, tip_z - wide),
                ]
            )
        else:
            self.c.shadow(_around(foot, wide, 0.3), 0.5)

    def pavement_things(self, side: int) -> None:
        """Adds lamps, signs, trees, railings and people along one pavement."""
        rng, c, sign = self.rng, self.c, 1.0 if side else -1.0
        near_kerb = self.kerb[side] + sign * 0.4
        z, spacing = rng.uniform(6, 28), rng.uniform(18, 36)
        high = rng.uniform(5.5, 9)
        while z < 130 and rng.random() < 0.9:
            foot = self.at(near_kerb, z, _KERB_M)
            self.add(z, partial(things.street_lamp, c, foot, high, -sign * rng.uniform(0.7, 1.6)))
            self.cast(foot, high, 0.08)
            z += spacing
        kinds = (things.street_sign, things.street_sign, things.traffic_light)
        for _ in range(int(rng.integers(0, 4))):
            z = rng.uniform(7, 15) if rng.random() < 0.4 else rng.uniform(9, 60)
            foot = self.at(near_kerb + sign * rng.uniform(-0.1, 0.6), z, _KERB_M)
            self.add(z, partial(pick(rng, kinds), c, foot))
            self.cast(foot, 2.5, 0.08)
        if rng.random() < 0.3:
            z, spacing = rng.uniform(6, 18), rng.uniform(8, 16)
            while z < 110:
                self.tree(self.at(near_kerb + sign * 0.3, z)[0], z, rng.uniform(5, 9))
                z += spacing
        if rng.random() < 0.22:
            z0 = rng.uniform(3, 20)
            rail = self.wall(self.kerb[side] + sign * 0.2, z0, z0 + rng.uniform(8, 25))
            self.add(rail.end[1], partial(things.fence, c, rail, "rails", _KERB_M))
        elif rng.random() < 0.2:
            z = rng.uniform(5, 12)
            for k in range(6):
                foot = self.at(near_kerb, z + 2 * k, _KERB_M)
                self.add(foot[2], partial(things.bollard, c, foot))
        for _ in range(int(rng.poisson(2.0))):
            z = rng.uniform(6, 18) if rng.random() < 0.5 else rng.uniform(8, 60)
            for _ in range(1 + int(rng.random() < 0.35)):
                x = self.kerb[side] + sign * rng.uniform(0.5, max(0.8, self.walk[side] - 0.3))
                foot = self.at(x, z + rng.uniform(-0.5, 0.5), _KERB_M)
                self.add(foot[2], partial(movers.pedestrian, c, foot))
                self.cast(foot, 1.7, 0.2)

    # Traffic

    def vehicle(self, x: float, z: float, heading: float, kind: str, *, lights: bool) -> None:
        """Adds a vehicle and the shadow under it."""
        heading += math.atan(2 * self.bend * z)
        foot = self.at(x, z)
        self.add(z, partial(movers.vehicle, self.c, foot, heading, kind, lights=lights))
        wide, long = (1.3, 4.8) if kind == "bus" else (1.0, 2.3)
        if abs(math.sin(heading)) > 0.7:
            wide, long = long, wide
        base = _around(foot, wide, long)
        self.c.shadow(base)
        sun_x, sun_z = self.c.light.sun
        tall = 3.0 if kind == "bus" else 1.5
        self.c.shadow([(p[0] + sun_x * tall, 0, p[2] + sun_z * tall) for p in base])
        self.c.shadow(_around(foot, wide + 0.25, long + 0.25), 0.6)

    def parked(self, side: int) -> None:
        """Adds a row of parked cars."""
        if not self.parking[side]:
            return
        rng, z = self.rng, self.rng.uniform(3.5, 12)
        while z < 120:
            blocked = self.crossed[side] and self.crossing[0] - 5 < z < self.crossing[1] + 5
            if rng.random() < 0.6 and not blocked:
                x = self.kerb[side] + (-1.05 if side else 1.05)
                kind = pick(rng, ("hatchback", "hatchback", "saloon", "estate", "van"))
                heading = math.pi if side and rng.random() < 0.8 else 0.0
                self.vehicle(x, z, heading, kind, lights=False)
            z += rng.uniform(5.2, 6.5)

    def traffic(self) -> None:
        """Adds moving cars and bicycles, and people on the road."""
        rng, c = self.rng, self.c
        kinds = (*("hatchback", "saloon", "estate") * 4, "van", "bus")
        dusk = c.light.night > 0
        z = rng.uniform(9, 50)
        while z < 130 and rng.random() < 0.6:
            x = -self.lane / 2 + rng.uniform(-0.3, 0.3)
            self.vehicle(x, z, 0.0, pick(rng, kinds), lights=dusk or rng.random() < 0.2)
            z += rng.uniform(10, 40)
        z = rng.uniform(8, 40)
        while z < 130 and rng.random() < 0.7:
            x = self.lane / 2 + rng.uniform(-0.3, 0.3)
            self.vehicle(x, z, math.pi, pick(rng, kinds), lights=dusk or rng.random() < 0.2)
            z += rng.uniform(9, 40)
        for side in (0, 1):
            if self.crossed[side] and rng.random() < 0.5:
                z = sum(self.crossing) / 2 + (1.7 if side else -1.7)
                x = self.edge(side) + (1 if side else -1) * rng.uniform(-1, 10)
                turn = pick(rng, (-0.5, 0.5)) * math.pi
                self.vehicle(x, z, turn, pick(rng, kinds[:-1]), lights=dusk)
        for _ in range(int(rng.poisson(0.6))):
            z = rng.uniform(6, 35)
            foot = self.at(-self.lane + rng.uniform(0.4, 0.9), z)
            sideways = rng.random() < 0.35
            self.add(z - 0.2, partial(movers.cyclist, c, foot, sideways=sideways))
            self.cast(foot, 1.6, 0.25)
        if rng.random() < 0.15:
            foot = self.at(rng.uniform(-1, 1) * self.lane, rng.uniform(12, 40))
            self.add(foot[2], partial(movers.pedestrian, c, foot))
            self.cast(foot, 1.7, 0.2)


def _around(foot: Point, wide: float, long: float) -> Sequence[Point]:
    """Rectangle on the ground."""
    x, _, z = foot
    return [
        (x - wide, 0, z - long),
        (x + wide, 0, z - long),
        (x + wide, 0, z + long),
        (x - wide, 0, z + long),
    ]
