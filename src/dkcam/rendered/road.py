"""A flat road seen by a pinhole camera: vehicles, trees, houses and traffic signs, painted far to near.

World axes: x to the right of the camera's path, y up from the road, z ahead; metres. Image axes: pixels, y down.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from dkcam.rendered.signs import SIGN_NAMES, Colour, Picture, draw_sign

NEAR = 2.0  # metres; nothing nearer than this is drawn
SIGN_SIDE = 0.9  # metres; outer size of a sign
_HOUSE_COLOURS: tuple[Colour, ...] = ((120, 140, 165), (150, 160, 170), (95, 105, 150), (170, 175, 180))
_CAR_COLOURS: tuple[Colour, ...] = ((45, 45, 50), (190, 190, 195), (60, 50, 140), (130, 80, 40), (90, 95, 100))


@dataclass(frozen=True)
class Box:
    """An object's true place: label, then left, top, right, bottom in pixels (floats, may cross the frame's edge)."""

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Camera:
    """focal: focal length as a multiple of the frame's height. horizon: its height in the frame, 0 top to 1 bottom.

    height: metres above the road.
    """

    focal: float = 2.4
    horizon: float = 0.55
    height: float = 1.4


@dataclass(frozen=True)
class SignPost:
    """A sign at (x, z) metres, its centre ``y`` metres up; ``seed`` picks the number or symbol on it."""

    name: str
    x: float
    z: float
    y: float = 2.0
    side: float = SIGN_SIDE
    seed: int = 0


@dataclass(frozen=True)
class Vehicle:
    """A vehicle seen from behind at (x, z) metres."""

    x: float
    z: float
    width: float = 1.8
    tall: float = 1.5
    colour: Colour = (45, 45, 50)


@dataclass(frozen=True)
class Prop:
    """A tree (kind "tree") or a house (kind "house") beside the road, metres."""

    kind: str
    x: float
    z: float
    width: float
    tall: float
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """Everything one frame shows. ``bend`` is the road's curvature in 1/m; ``light`` 0.4 (dusk) to 1.1 (noon)."""

    signs: tuple[SignPost, ...] = ()
    vehicles: tuple[Vehicle, ...] = ()
    props: tuple[Prop, ...] = ()
    bend: float = 0.0
    lane: float = 3.5
    dash_offset: float = 0.0
    light: float = 1.0
    grass: Colour = (60, 105, 80)
    sky: Colour = (225, 195, 165)
    texture: int = 0
    camera: Camera = field(default_factory=Camera)


class _View:
    """Projects world points into a frame of height × width pixels."""

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.scene, self.height, self.width = scene, height, width
        self.focal = scene.camera.focal * height
        self.horizon = scene.camera.horizon * height

    def point(self, x: float, y: float, z: float) -> tuple[float, float]:
        x = x + 0.5 * self.scene.bend * z * z
        column = self.width / 2 + self.focal * x / z
        row = self.horizon + self.focal * (self.scene.camera.height - y) / z
        return column, row

    def scale(self, z: float) -> float:
        """Pixels per metre at distance z."""
        return self.focal / z


def _fill(image: Picture, points: list[tuple[float, float]], colour: Colour) -> None:
    corners = np.clip(np.array(points) * 16, -(2**20), 2**20).astype(np.int32)
    cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, 4)


def _shade(colour: Colour, light: float) -> Colour:
    blue, green, red = (int(min(255.0, channel * light)) for channel in colour)
    return blue, green, red


@lru_cache(maxsize=1)
def _ground(texture: int, sky: Colour, grass: Colour, light: float, horizon: float, height: int, width: int) -> Picture:
    """Sky, hills and grass: what stays the same all along a drive. horizon: 0..1 of the height."""
    image = np.empty((height, width, 3), np.float32)
    split = int(np.clip(horizon * height, 1, max(height - 1, 1)))
    fade = np.linspace(0.75, 1.1, split, dtype=np.float32)[:, None, None]
    image[:split] = np.array(sky, np.float32) * fade * light
    rng = np.random.default_rng(texture)
    columns = np.arange(0, width + 8, 8)
    waves = [rng.uniform(0.2, 1.0) * np.sin(columns / width * rng.uniform(3, 25) + rng.uniform(0, 6)) for _ in range(4)]
    # grain that grows towards the camera would need a projection; smooth noise is enough here
    noise = rng.normal(0, 16, (height // 4 + 1, width // 4 + 1)).astype(np.float32)
    image[split:] = np.array(_shade(grass, light), np.float32)
    image[split:] += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[split:, :, None]
    picture = np.clip(image, 0, 255).astype(np.uint8)
    tops = height * (horizon - 0.03 - 0.012 * (np.sum(waves, axis=0) + 3))
    hills = [(float(column), float(top)) for column, top in zip(columns, tops, strict=True)]
    foot = horizon * height + 1
    _fill(picture, [*hills, (width, foot), (0, foot)], _shade((110, 120, 100), light))
    return picture


def _paint_road(image: Picture, view: _View) -> None:
    scene = view.scene
    edges = np.geomspace(NEAR, 160.0, 28)
    left, right = -1.5 * scene.lane, 0.5 * scene.lane + 0.8
    asphalt = _shade((95, 92, 90), scene.light)
    for near, far in itertools.pairwise(edges):
        quad = [view.point(x, 0, z) for x, z in ((left, near), (right, near), (right, far), (left, far))]
        _fill(image, quad, asphalt)
    paint = _shade((225, 225, 225), scene.light)

    def stripe(x: float, near: float, far: float, width: float) -> None:
        near = max(near, NEAR)
        if far > near:
            around = ((x - width / 2, near), (x + width / 2, near), (x + width / 2, far), (x - width / 2, far))
            _fill(image, [view.point(px, 0, z) for px, z in around], paint)

    for near, far in itertools.pairwise(edges):
        stripe(left + 0.25, float(near), float(far), 0.14)
        stripe(right - 0.55, float(near), float(far), 0.14)
    for start in np.arange(-scene.dash_offset % 9.0 - 9.0, 120.0, 9.0):
        stripe(-0.5 * scene.lane, float(start), float(start) + 4.0, 0.14)


def _paint_prop(image: Picture, view: _View, prop: Prop) -> None:
    scale = view.scale(prop.z)
    column, row = view.point(prop.x, 0, prop.z)
    wide, tall = prop.width * scale, prop.tall * scale
    colour = _shade(prop.colour, view.scene.light)
    if prop.kind == "house":
        _fill(
            image,
            [(column - wide / 2, row), (column + wide / 2, row), (column + wide / 2, row - tall), (column - wide / 2, row - tall)],
            colour,
        )
        roof = _shade((55, 60, 110), view.scene.light)
        _fill(image, [(column - wide * 0.55, row - tall), (column + wide * 0.55, row - tall), (column, row - tall * 1.4)], roof)
        glass = _shade((90, 80, 70), view.scene.light)
        for i in range(3):
            x = column + wide * (0.3 * i - 0.36)
            _fill(
                image,
                [(x, row - tall * 0.4), (x + wide * 0.12, row - tall * 0.4), (x + wide * 0.12, row - tall * 0.7), (x, row - tall * 0.7)],
                glass,
            )
        return
    trunk = _shade((45, 65, 85), view.scene.light)
    _fill(
        image,
        [(column - wide * 0.06, row), (column + wide * 0.06, row), (column + wide * 0.04, row - tall), (column - wide * 0.04, row - tall)],
        trunk,
    )
    rng = np.random.default_rng(int(prop.x * 97) & 0xFFFF)
    for _ in range(9):
        middle = (int(column + wide * rng.uniform(-0.35, 0.35)), int(row - tall * rng.uniform(0.45, 1.0)))
        if max(map(abs, middle)) < 2**14:
            shade = _shade(prop.colour, view.scene.light * rng.uniform(0.75, 1.15))
            cv2.circle(image, middle, max(1, int(wide * rng.uniform(0.15, 0.3))), shade, -1, cv2.LINE_AA)


def _paint_vehicle(image: Picture, view: _View, car: Vehicle) -> Box:
    scale, light = view.scale(car.z), view.scene.light
    column, row = view.point(car.x, 0, car.z)
    wide, tall = car.width * scale, car.tall * scale

    def part(left: float, low: float, right: float, high: float, colour: Colour) -> None:
        x0, x1, y0, y1 = column + left * wide, column + right * wide, row - low * tall, row - high * tall
        _fill(image, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], _shade(colour, light))

    part(-0.52, -0.03, 0.52, 0.05, (40, 40, 42))  # shadow
    for side in (-0.42, 0.28):
        part(side, 0.0, side + 0.14, 0.22, (25, 25, 25))  # wheels
    part(-0.5, 0.12, 0.5, 0.62, car.colour)
    part(-0.42, 0.60, 0.42, 1.0, car.colour)
    part(-0.36, 0.64, 0.36, 0.93, (120, 105, 90))  # window
    for side in (-0.48, 0.34):
        part(side, 0.42, side + 0.14, 0.55, (40, 35, 200))  # lights
    part(-0.14, 0.28, 0.14, 0.40, (225, 225, 225))  # plate
    return Box("vehicle", column - wide / 2, row - tall, column + wide / 2, row)


def _paint_sign(image: Picture, view: _View, sign: SignPost) -> Box:
    scale, light = view.scale(sign.z), view.scene.light
    column, row = view.point(sign.x, sign.y, sign.z)
    _, foot = view.point(sign.x, 0, sign.z)
    half = sign.side * scale / 2
    post = max(0.04 * scale, 0.5)
    _fill(image, [(column - post, row), (column + post, row), (column + post, foot), (column - post, foot)], _shade((130, 130, 130), light))
    box = Box(sign.name, column - half, row - half, column + half, row + half)
    left, top = int(np.floor(box.left)), int(np.floor(box.top))
    side = int(np.ceil(max(box.right - left, box.bottom - top)))
    if side >= 2 and left < image.shape[1] and top < image.shape[0] and left + side > 0 and top + side > 0:
        picture = draw_sign(sign.name, np.random.default_rng(sign.seed), min(side, 256))
        if side > 256:
            picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
        paste(image, picture, left, top, light)
    return box


def paste(image: Picture, picture: Picture, left: int, top: int, light: float = 1.0) -> None:
    """Blend a BGRA picture uint8 [h, w, 4] into a BGR image uint8 [H, W, 3] in place; parts outside are cut off."""
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + picture.shape[1], image.shape[1]), min(top + picture.shape[0], image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = picture[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    cover = part[..., 3:] / 255.0
    blended = image[y0:y1, x0:x1] * (1 - cover) + part[..., :3] * light * cover
    image[y0:y1, x0:x1] = np.clip(blended + 0.5, 0, 255)


def render(scene: Scene, height: int, width: int) -> tuple[Picture, list[Box]]:
    """Paint a scene. Returns the frame, uint8 [height, width, 3] BGR, and the boxes of its signs and vehicles."""
    view = _View(scene, height, width)
    image = _ground(scene.texture, scene.sky, scene.grass, scene.light, scene.camera.horizon, height, width).copy()
    _paint_road(image, view)
    boxes: list[Box] = []
    things: list[Prop | Vehicle | SignPost] = [*scene.props, *scene.vehicles, *scene.signs]
    for thing in sorted(things, key=lambda thing: -thing.z):
        if thing.z < NEAR:
            continue
        if isinstance(thing, SignPost):
            boxes.append(_paint_sign(image, view, thing))
        elif isinstance(thing, Vehicle):
            boxes.append(_paint_vehicle(image, view, thing))
        else:
            _paint_prop(image, view, thing)
    inside = [b for b in boxes if b.right > 0 and b.left < width and b.bottom > 0 and b.top < height]
    return image, inside


def random_props(rng: np.random.Generator, start: float, end: float, count: int) -> tuple[Prop, ...]:
    """Trees and houses on both sides of the road between two distances in metres."""
    props = []
    for _ in range(count):
        side = 1.0 if rng.random() < 0.5 else -1.0
        z = float(rng.uniform(start, end))
        if rng.random() < 0.3:
            colour = _HOUSE_COLOURS[rng.integers(len(_HOUSE_COLOURS))]
            x = side * float(rng.uniform(12, 22)) - (4.0 if side < 0 else 0.0)
            props.append(Prop("house", x, z, float(rng.uniform(7, 12)), float(rng.uniform(4, 8)), colour))
        else:
            green: Colour = (int(rng.integers(30, 70)), int(rng.integers(70, 120)), int(rng.integers(40, 90)))
            x = side * float(rng.uniform(6, 16)) - (4.0 if side < 0 else 0.0)
            props.append(Prop("tree", x, z, float(rng.uniform(2, 5)), float(rng.uniform(4, 9)), green))
    return tuple(props)


def random_vehicle(rng: np.random.Generator, z: float, lane: float = 3.5) -> Vehicle:
    colour = _CAR_COLOURS[rng.integers(len(_CAR_COLOURS))]
    x = float(rng.choice([0.0, -lane])) + float(rng.uniform(-0.3, 0.3))
    lorry = rng.random() < 0.2
    return Vehicle(x, z, 2.4 if lorry else 1.8, 3.2 if lorry else 1.5, colour)


def random_scene(rng: np.random.Generator, signs: tuple[SignPost, ...] = ()) -> Scene:
    """A scene with random road, light, vehicles and roadside, and the given signs.

    Without ``signs``, one random sign stands at a random distance.
    """
    if not signs:
        name = SIGN_NAMES[rng.integers(len(SIGN_NAMES))]
        z = float(rng.uniform(9, 30))
        signs = (SignPost(name, float(rng.uniform(2.2, 3.2)), z, float(rng.uniform(1.7, 2.6)), seed=int(rng.integers(2**31))),)
    grass: Colour = (int(rng.integers(45, 90)), int(rng.integers(90, 130)), int(rng.integers(70, 120)))
    sky: Colour = (int(rng.integers(190, 250)), int(rng.integers(175, 220)), int(rng.integers(150, 215)))
    cars = tuple(random_vehicle(rng, float(rng.uniform(12, 70))) for _ in range(rng.integers(0, 4)))
    return Scene(
        signs=signs,
        vehicles=cars,
        props=random_props(rng, 15, 90, int(rng.integers(4, 18))),
        bend=float(rng.normal(0, 0.0006)),
        dash_offset=float(rng.uniform(0, 9)),
        light=float(rng.uniform(0.45, 1.1)),
        grass=grass,
        sky=sky,
        texture=int(rng.integers(2**31)),
        camera=Camera(focal=float(rng.uniform(2.0, 2.8)), horizon=float(rng.uniform(0.48, 0.62))),
    )
