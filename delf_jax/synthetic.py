"""Drawn landmarks, seen by cameras of known pose, with exact correspondences.

A landmark is a set of textured planes; a view paints each one by its homography into a
depth buffer. `draw_landmark(seed)` and `draw_view(landmark, number)` depend on their
arguments alone: unlimited classes for training, truth for tests, pictures for the demo.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from delf_jax import buildings, conditions, monuments, scenery, solids
from delf_jax.conditions import Conditions
from delf_jax.drawing import Level
from delf_jax.solids import Surface

_SUPERSAMPLING = 2
_NEAR = 0.4  # units; what is nearer to the camera is cut off
_KINDS = (
    buildings.town_houses,
    buildings.cathedral,
    buildings.temple,
    monuments.castle,
    monuments.arch,
    monuments.clock_tower,
    monuments.domed_church,
    monuments.modern_block,
    monuments.palace,
)


class Landmark(NamedTuple):
    """A drawn building with its surroundings."""

    seed: int
    surfaces: tuple[Surface, ...]
    extent: Float[np.ndarray, "3"]  # width, depth, height of the building
    hulls: Float[np.ndarray, "S 4 3"]  # what casts shadows
    trees: Float[np.ndarray, "T 4"]  # x, y, size and kind


class Camera(NamedTuple):
    """A pinhole camera; its axes are x right, y down, z forwards."""

    position: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]  # rows are the camera's axes in the world
    focal: float  # pixels
    size: tuple[int, int]  # height, width in pixels


class View(NamedTuple):
    """A photo of a landmark, and for each pixel the plane that it shows."""

    image: UInt8[np.ndarray, "H W 3"]
    camera: Camera
    surface: Int[np.ndarray, "H W"]  # row of `planes`, -1 for sky and passers-by
    planes: Float[np.ndarray, "S 3"]  # inverse depth = planes @ (x, y, 1)


def draw_landmark(seed: int) -> Landmark:
    """The landmark of a seed; its kind is seed modulo the number of kinds."""
    rng = np.random.default_rng((seed, 0))
    building = _KINDS[seed % len(_KINDS)](rng)
    extent = np.array([building.width, building.depth, building.height])
    surfaces = [
        *scenery.ground(rng, building.width, building.depth),
        *scenery.backdrop(rng, building.width, building.depth),
        *building.surfaces,
    ]
    count = int(rng.integers(0, 6))
    side = rng.choice((-1, 1), count)
    trees = np.stack(
        [
            side * (0.5 * extent[0] + rng.uniform(0, 8, count)),
            rng.uniform(-5, 6, count),
            rng.uniform(0.6, 1.5, count),
            rng.integers(12, size=count),
        ],
        -1,
    )
    hulls = [solids.vertices(s)[[0, 1, 2, -1]] for s in building.surfaces]
    return Landmark(seed, tuple(surfaces), extent, np.stack(hulls), trees)


def draw_view(
    landmark: Landmark,
    number: int,
    size: tuple[int, int] = (240, 320),
    *,
    clean: bool = False,
) -> View:
    """View `number` of a landmark, at a height and width in pixels.

    clean: by day, sharp, with nothing in the way, for measuring.
    """
    rng = np.random.default_rng((landmark.seed, 1, number))
    camera = sample_camera(rng, landmark, size)
    weather = conditions.sample_conditions(rng)
    return render(landmark, camera, conditions.CLEAN if clean else weather)


def sample_camera(
    rng: np.random.Generator, landmark: Landmark, size: tuple[int, int]
) -> Camera:
    """A visitor's camera: yaw within 50 degrees of the front, zoom 0.5 to 2."""
    width, depth, height = landmark.extent
    yaw = np.deg2rad(rng.uniform(-50, 50))
    zoom = np.exp(rng.uniform(np.log(0.5), np.log(2.0)))
    field = np.deg2rad(rng.uniform(42, 68))
    shape = np.array(size[::-1])
    focal = 0.5 * shape.max() / np.tan(field / 2)
    seen = np.array([width * np.cos(yaw) + 0.5 * depth * abs(np.sin(yaw)), height])
    distance = (focal * seen / (0.92 * shape)).max()
    near = max(distance / zoom, 0.55 * distance)
    focal *= zoom * near / distance
    target = np.array([0.0, 0.15 * depth * abs(np.sin(yaw)), 0.46 * height])
    target += rng.normal(0, 0.12, 3) * (width, 0, 0.7 * height) * min(zoom, 1.5)
    eye = 1.6 + 0.5 * height * rng.beta(1.2, 2.5)
    position = np.array([-np.sin(yaw) * near, -np.cos(yaw) * near, eye])
    position[0] += 0.3 * target[0]
    forward = target - position
    forward /= np.linalg.norm(forward)
    right = solids.cross(forward, np.array((0.0, 0.0, 1.0)))
    right /= np.linalg.norm(right)
    down = solids.cross(forward, right)
    roll = np.deg2rad(np.clip(rng.normal(0, 3.5), -12, 12))
    rolled = np.cos(roll) * right + np.sin(roll) * down
    rotation = np.stack([rolled, solids.cross(forward, rolled), forward])
    return Camera(position, rotation, float(focal), size)


def render(landmark: Landmark, camera: Camera, weather: Conditions) -> View:
    """The photo of a landmark that a camera takes under given conditions."""
    height, width = (_SUPERSAMPLING * n for n in camera.size)
    rng = np.random.default_rng((landmark.seed, weather.seed))
    canvas = conditions.paint_sky(rng, weather, _upward(camera, height, width))
    nearest = np.zeros((height, width), np.float32)
    shown = np.full((height, width), -1, np.int16)
    billboards = _billboards(rng, landmark, camera, weather)
    planes = np.zeros((len(landmark.surfaces), 3))
    for number, surface in enumerate((*landmark.surfaces, *billboards)):
        fixed = number < len(landmark.surfaces)
        plane = _paint(
            canvas,
            nearest,
            shown,
            surface,
            number if fixed else -1,
            camera,
            landmark,
            weather,
        )
        if fixed and plane is not None:
            planes[number] = plane
    shape = camera.size[::-1]
    image = cv2.resize(canvas, shape, None, 0, 0, cv2.INTER_AREA)
    depth = nearest[1::_SUPERSAMPLING, 1::_SUPERSAMPLING]
    image = conditions.develop(rng, weather, image, depth)
    return View(image, camera, shown[1::_SUPERSAMPLING, 1::_SUPERSAMPLING], planes)


def correspond(
    view: View, other: View, locations: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, "N"]]:
    """Where points (y, x) of one view lie in another, and whether both show them.

    The centre of the first pixel is (0, 0). Points on sky or passers-by are not visible.
    """
    y, x = locations[:, 0], locations[:, 1]
    inverse, known = _inverse_depth(view, y, x)
    known &= inverse > 0
    rays = _rays(view.camera, y, x) / np.where(known, inverse, 1.0)[:, None]
    points = rays @ view.camera.rotation + view.camera.position
    seen = (points - other.camera.position) @ other.camera.rotation.T
    known &= seen[:, 2] > _NEAR
    depth = np.where(known, seen[:, 2], 1.0)
    centre = (np.array(other.camera.size) - 1) / 2
    found = other.camera.focal * seen[:, 1::-1] / depth[:, None] + centre
    inside = (found > -0.5) & (found < np.array(other.camera.size) - 0.5)
    known &= inside.all(1)
    there = np.where(known[:, None], found, 0.0)
    stored, shown = _inverse_depth(other, there[:, 0], there[:, 1])
    known &= shown & (np.abs(stored * depth - 1) < 0.005)
    return found, known


def _inverse_depth(view: View, y: np.ndarray, x: np.ndarray):
    """Inverse depth at points of a view, and whether a surface is known there."""
    rows = np.round(y).astype(int).clip(0, view.surface.shape[0] - 1)
    columns = np.round(x).astype(int).clip(0, view.surface.shape[1] - 1)
    surface = view.surface[rows, columns]
    plane = view.planes[surface]
    return plane[:, 0] * x + plane[:, 1] * y + plane[:, 2], surface >= 0


def _rays(camera: Camera, y: np.ndarray, x: np.ndarray) -> Float[np.ndarray, "N 3"]:
    """Directions in the camera's frame with z = 1."""
    centre = (np.array(camera.size) - 1) / 2
    return np.stack(
        [
            (x - centre[1]) / camera.focal,
            (y - centre[0]) / camera.focal,
            np.ones_like(x, dtype=float),
        ],
        -1,
    )


def _upward(camera: Camera, height: int, width: int) -> Float[np.ndarray, "H W"]:
    """The sine of the elevation of every pixel's ray."""
    focal = _SUPERSAMPLING * camera.focal
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / np.float32(focal)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / np.float32(focal)
    up = camera.rotation[:, 2].astype(np.float32)
    length = np.sqrt(1 + x**2 + y[:, None] ** 2)
    return (up[0] * x + up[1] * y[:, None] + up[2]) / length


def _billboards(
    rng: np.random.Generator, landmark: Landmark, camera: Camera, weather: Conditions
) -> list[Surface]:
    """Trees and passers-by, turned to the camera."""
    forward = camera.rotation[2] * (1, 1, 0)
    forward /= np.linalg.norm(forward)
    right = np.array([forward[1], -forward[0], 0.0])
    boards = []

    def stand(kind, number, place, width, height):
        left = np.array([*place, 0.0]) - right * width / 2
        texture = scenery.passers(kind, int(number))
        up = (0.0, 0.0, height)
        boards.append(solids.panel(texture, left, right * width, up, two_sided=True))

    if not weather.passers:
        return boards
    for x, y, size, number in landmark.trees:
        stand("tree", number, (x, y), 4 * size, 6 * size)
    reach = max(-camera.position[1] - 1.5, 2.0)
    for _ in range(weather.passers):
        share = rng.uniform(0.1, 0.85)
        sideways = rng.normal(0, 0.35) * landmark.extent[0] * (0.4 + share)
        place = camera.position[:2] * (1 - share) + right[:2] * sideways
        place[1] = max(min(place[1], -1.0), -reach)
        kind, size = [
            ("person", (0.95, 1.8)),
            ("person", (0.95, 1.8)),
            ("person", (0.9, 1.7)),
            ("lamp", (1.0, 5.0)),
            ("tree", (2.6, 4.0)),
            ("stall", (3.6, 2.4)),
        ][rng.choice(6, p=(0.25, 0.25, 0.2, 0.12, 0.1, 0.08))]
        stand(kind, rng.integers(24), place, *size)
    return boards


def _paint(canvas, nearest, shown, surface, number, camera, landmark, weather):
    """Paints one surface; its inverse depth over image pixels, or None if unseen."""
    axes = np.stack([surface.across, surface.down, surface.corner - camera.position])
    axes = axes @ camera.rotation.T  # rows in the camera's frame
    facing = solids.cross(axes[1], axes[0]) @ axes[2]
    if facing >= -1e-9 and not (surface.two_sided and facing > 1e-9):
        return None
    polygon = surface.outline @ axes[:2] + axes[2]
    polygon = _clipped(np.concatenate([polygon, surface.outline], 1))
    if len(polygon) < 3:
        return None
    polygon, outline = polygon[:, :3], polygon[:, 3:]
    height, width = nearest.shape
    focal = _SUPERSAMPLING * camera.focal
    matrix = np.array(
        [(focal, 0, (width - 1) / 2), (0, focal, (height - 1) / 2), (0, 0, 1)]
    )
    pixels = polygon @ matrix.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low = np.floor(pixels.min(0)).astype(int).clip(0)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 1, (width, height))
    if (high <= low).any():
        return None
    (left, top), (wide, tall) = low, high - low
    patch = np.s_[top : top + tall, left : left + wide]
    across = solids.cross(axes[1], axes[0])
    plane = across @ np.linalg.inv(matrix) / (across @ axes[2])
    inverse = (
        plane[0] * np.arange(left, left + wide, dtype=np.float32)
        + (plane[1] * np.arange(top, top + tall) + plane[2])[:, None]
    ).astype(np.float32)
    mask = np.zeros((tall, wide), np.uint8)
    points = np.round((pixels - low) * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, points, 255, cv2.LINE_8, 4)
    mask[inverse <= nearest[patch]] = 0
    if not cv2.hasNonZero(mask):
        return None
    level = _level(surface, outline, pixels)
    rows, columns = level.colour.shape[:2]
    lay = np.array(
        [(1 / columns, 0, 0.5 / columns), (0, 1 / rows, 0.5 / rows), (0, 0, 1)]
    )
    shift = np.array([(1, 0, -left), (0, 1, -top), (0, 0, 1.0)])
    homography = shift @ matrix @ axes.T @ lay
    box = (int(wide), int(tall))
    if level.alpha is not None:
        alpha = cv2.warpPerspective(level.alpha, homography, box)
        mask[alpha < 128] = 0
    lit = conditions.light(surface, level, weather, landmark.hulls)
    colour = cv2.warpPerspective(
        lit, homography, box, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    cv2.copyTo(colour, mask, canvas[patch])
    cv2.copyTo(inverse, mask, nearest[patch])
    shown[patch][mask > 0] = number
    # from supersampled pixels X = s x + (s - 1) / 2 to pixels x
    s = _SUPERSAMPLING
    middle = (s - 1) / 2 * (plane[0] + plane[1])
    return np.array([s * plane[0], s * plane[1], plane[2] + middle])


def _clipped(polygon: Float[np.ndarray, "K 5"]) -> Float[np.ndarray, "L 5"]:
    """The part of a convex polygon in front of the camera."""
    depths = polygon[:, 2] - _NEAR
    if (depths > 0).all():
        return polygon
    kept = []
    for i, (point, depth) in enumerate(zip(polygon, depths, strict=True)):
        if depth > 0:
            kept.append(point)
        after = (i + 1) % len(polygon)
        if depth * depths[after] < 0:
            share = depth / (depth - depths[after])
            kept.append(point + share * (polygon[after] - point))
    return np.array(kept).reshape(-1, 5)


def _level(
    surface: Surface,
    outline: Float[np.ndarray, "K 2"],
    pixels: Float[np.ndarray, "K 2"],
) -> Level:
    """The coarsest resolution of a texture that still suits its area in the picture."""
    levels = surface.texture.levels
    rows, columns = levels[0].colour.shape[:2]
    drawn = cv2.contourArea(pixels.astype(np.float32))
    share = cv2.contourArea(outline.astype(np.float32))
    ratio = rows * columns * share / max(drawn, 1.0)
    return levels[
        int(np.clip(0.5 * np.log2(max(ratio, 1e-9)) + 0.35, 0, len(levels) - 1))
    ]
