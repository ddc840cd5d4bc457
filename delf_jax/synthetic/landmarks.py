"""Drawn landmarks, seen by cameras of known pose.

A landmark is a set of textured planes; a view paints each one by its homography into a
depth buffer. `draw_landmark(seed)` and `draw_view(landmark, number)` depend on their
arguments alone: unlimited classes for training, truth for tests, pictures for the demo.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from delf_jax.synthetic import buildings, conditions, monuments, rendering, scenery
from delf_jax.synthetic.canvas import Random
from delf_jax.synthetic.conditions import Conditions
from delf_jax.synthetic.correspondence import Camera, View
from delf_jax.synthetic.rendering import Picture
from delf_jax.synthetic.surfaces import Surface, cross, panel, vertices

# Training keeps to seeds below; the demo and the tests use those from here on.
HELD_OUT = 1_000_000
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
# kind, width and height of what passes by
_PASSERS = (
    ("person", 0.95, 1.8),
    ("person", 0.95, 1.8),
    ("person", 0.9, 1.7),
    ("lamp", 1.0, 5.0),
    ("tree", 2.6, 4.0),
    ("stall", 3.6, 2.4),
)


class Landmark(NamedTuple):
    """A drawn building with its surroundings."""

    seed: int
    surfaces: tuple[Surface, ...]
    extent: Float[np.ndarray, "3"]  # width, depth, height of the building
    hulls: Float[np.ndarray, "S 4 3"]  # what casts shadows
    trees: Float[np.ndarray, "T 4"]  # x, y, size and kind


def draw_landmark(seed: int) -> Landmark:
    """The landmark of a seed; its kind is seed modulo the number of kinds."""
    rng = np.random.default_rng((seed, 0))
    building = _KINDS[seed % len(_KINDS)](rng)
    around = scenery.ground(rng, building.width, building.depth)
    around += scenery.backdrop(rng, building.width, building.depth)
    count = int(rng.integers(0, 6))
    side = rng.choice((-1, 1), count)
    x = side * (0.5 * building.width + rng.uniform(0, 8, count))
    y, size = rng.uniform(-5, 6, count), rng.uniform(0.6, 1.5, count)
    trees = np.stack([x, y, size, rng.integers(12, size=count)], -1)
    extent = np.array([building.width, building.depth, building.height])
    hulls = [vertices(s)[[0, 1, 2, -1]] for s in building.surfaces]
    surfaces = (*around, *building.surfaces)
    return Landmark(seed, surfaces, extent, np.stack(hulls), trees)


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


def box_of(landmark: Landmark, view: View) -> Float[np.ndarray, "N 4"]:
    """The box about all pixels that show the building; none where none does.

    In parts of the view's height and width.
    """
    # the building's surfaces come last, a hull for each
    first = len(landmark.surfaces) - len(landmark.hulls)
    shown = view.surface >= first
    if not shown.any():
        return np.zeros((0, 4))
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    box = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    return np.array([box]) / np.array([*shown.shape] * 2)


def sample_camera(rng: Random, landmark: Landmark, size: tuple[int, int]) -> Camera:
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
    right = cross(forward, np.array((0.0, 0.0, 1.0)))
    right /= np.linalg.norm(right)
    down = cross(forward, right)
    roll = np.deg2rad(np.clip(rng.normal(0, 3.5), -12, 12))
    rolled = np.cos(roll) * right + np.sin(roll) * down
    rotation = np.stack([rolled, cross(forward, rolled), forward])
    return Camera(position, rotation, float(focal), size)


def render(landmark: Landmark, camera: Camera, weather: Conditions) -> View:
    """The photo of a landmark that a camera takes under these conditions."""
    rng = np.random.default_rng((landmark.seed, weather.seed))
    sky = conditions.paint_sky(rng, weather, rendering.upward(camera))
    picture = Picture(
        sky, np.zeros(sky.shape[:2], np.float32), np.full(sky.shape[:2], -1, np.int16)
    )
    planes = np.zeros((len(landmark.surfaces), 3))
    for number, surface in enumerate(landmark.surfaces):
        plane = rendering.paint(
            picture, surface, number, camera, weather, landmark.hulls
        )
        planes[number] = 0 if plane is None else plane
    for surface in _billboards(rng, landmark, camera, weather):
        rendering.paint(picture, surface, -1, camera, weather, landmark.hulls)
    image = cv2.resize(picture.colour, camera.size[::-1], None, 0, 0, cv2.INTER_AREA)
    centres = np.s_[1 :: rendering.SUPERSAMPLING, 1 :: rendering.SUPERSAMPLING]
    image = conditions.develop(rng, weather, image, picture.inverse_depth[centres])
    return View(image, camera, picture.surface[centres], planes)


def _billboards(
    rng: Random, landmark: Landmark, camera: Camera, weather: Conditions
) -> list[Surface]:
    """Trees and passers-by, turned to the camera."""
    forward = camera.rotation[2] * (1, 1, 0)
    forward /= np.linalg.norm(forward)
    right = np.array([forward[1], -forward[0], 0.0])
    boards: list[Surface] = []
    if not weather.passers:
        return boards

    def stand(kind, number, place, width, height):
        left = np.array([*place, 0.0]) - right * width / 2
        texture = scenery.passers(kind, int(number))
        up = (0.0, 0.0, height)
        boards.append(panel(texture, left, right * width, up, two_sided=True))

    for x, y, size, number in landmark.trees:
        stand("tree", number, (x, y), 4 * size, 6 * size)
    reach = max(-camera.position[1] - 1.5, 2.0)
    for _ in range(weather.passers):
        share = rng.uniform(0.1, 0.85)
        sideways = rng.normal(0, 0.35) * landmark.extent[0] * (0.4 + share)
        place = camera.position[:2] * (1 - share) + right[:2] * sideways
        place[1] = max(min(place[1], -1.0), -reach)
        passer = rng.choice(6, p=(0.25, 0.25, 0.2, 0.12, 0.1, 0.08))
        kind, width, height = _PASSERS[passer]
        stand(kind, rng.integers(24), place, width, height)
    return boards
