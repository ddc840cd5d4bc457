"""Light, weather, and what a camera does to a picture: exposure, blur, noise, JPEG."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from delf_jax.synthetic import canvas, surfaces
from delf_jax.synthetic.canvas import Level, Number, Random, Rgb
from delf_jax.synthetic.surfaces import Surface

_GAMMA = 2.2
_SKY_STEP = 4  # skies are smooth: drawn this much smaller


def _direction(azimuth: Number, elevation: Number) -> Float[np.ndarray, "3"]:
    """A unit vector; azimuth 0 is behind the visitor, positive to the right."""
    x, y = np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth)
    return np.array([x, y, np.sin(elevation)])


class Conditions(NamedTuple):
    """The circumstances of one photo; light is linear, 1 is full daylight.

    By default a sunny day, seen by a camera that changes nothing.
    """

    seed: int = 0
    sun: Float[np.ndarray, "3"] = _direction(0.6, 0.8)  # unit vector to the light
    sunlight: Rgb = np.full(3, 0.75)
    ambient: Rgb = np.full(3, 0.5)
    shadows: bool = True  # whether the light is hard enough to cast them
    lamps: float = 0.0  # how brightly windows and lamps shine
    zenith: Rgb = np.array((96.0, 148, 214))  # colours of the sky, 0 to 255
    horizon: Rgb = np.array((196.0, 214, 230))
    cover: float = 0.3  # share of the sky under clouds
    haze: float = 0.0  # per unit of distance
    passers: int = 0  # people and things in the way
    exposure: float = 1.0  # factor of brightness
    balance: Rgb = np.ones(3)  # gains
    contrast: float = 1.0
    saturation: float = 1.0
    blur: float = 0.0  # standard deviation, pixels of a picture 320 pixels large
    motion: tuple[Number, ...] = (0.0, 0.0)  # camera shake (y, x) in such pixels
    noise: float = 0.0  # standard deviation, 0 to 255
    quality: int = 100  # of JPEG; 100 leaves the picture as it is


CLEAN = Conditions()


class _Hour(NamedTuple):
    """What an hour of the day decides; pairs are ranges."""

    share: float  # of all photos
    elevation: tuple[Number, Number]  # of the sun, or of floodlights before the front
    sunlight: tuple[Number, Number, Number]
    ambient: tuple[Number, Number, Number]
    zenith: tuple[Number, Number, Number]
    horizon: tuple[Number, Number, Number]
    cover: tuple[Number, Number]
    shadows: bool = True
    lamps: Number = 0.0


# fmt: off
_HOURS = (
    _Hour(0.42, (0.5, 1.1), (0.86, 0.82, 0.74), (0.36, 0.4, 0.48),  # sun
          (70, 126, 206), (178, 206, 232), (0, 0.6)),
    _Hour(0.22, (0.8, 1.0), (0.2, 0.2, 0.2), (0.62, 0.64, 0.68),  # clouds
          (150, 158, 168), (208, 212, 216), (0.5, 1), shadows=False),
    _Hour(0.14, (0.2, 0.45), (1.05, 0.72, 0.42), (0.26, 0.28, 0.36),  # a low sun
          (92, 118, 168), (246, 200, 148), (0.1, 0.6)),
    _Hour(0.1, (0.4, 0.6), (0.1, 0.08, 0.09), (0.15, 0.17, 0.26),  # dusk
          (40, 54, 104), (196, 136, 120), (0.1, 0.8), shadows=False, lamps=0.8),
    _Hour(0.12, (-0.45, -0.25), (0.5, 0.38, 0.2), (0.045, 0.05, 0.075),  # night
          (10, 12, 26), (34, 32, 46), (0, 0.4), shadows=False, lamps=1.0),
)
# fmt: on


def sample_conditions(rng: Random) -> Conditions:
    """A sunny, overcast, golden or dark hour, and a photographer of some skill."""
    hour = _HOURS[rng.choice(len(_HOURS), p=[h.share for h in _HOURS])]
    dim = hour.lamps > 0
    reach = 0.9 if hour.elevation[0] < 0 else 1.5
    shaken = rng.random() < 0.15
    return Conditions(
        seed=int(rng.integers(1 << 30)),
        sun=_direction(rng.uniform(-reach, reach), rng.uniform(*hour.elevation)),
        sunlight=np.array(hour.sunlight),
        ambient=np.array(hour.ambient),
        shadows=hour.shadows,
        lamps=float(hour.lamps),
        zenith=np.array(hour.zenith, float),
        horizon=np.array(hour.horizon, float),
        cover=rng.uniform(*hour.cover),
        haze=rng.uniform(0, 0.006) if rng.random() < 0.8 else rng.uniform(0, 0.02),
        passers=int(rng.choice([0, 1, 2, 3, 5, 9], p=(0.15, 0.2, 0.2, 0.2, 0.15, 0.1))),
        exposure=float(np.exp(rng.normal(0.22 if dim else -0.09, 0.17))),
        balance=np.exp(rng.normal(0, 0.05, 3)),
        contrast=float(np.exp(rng.normal(0.06, 0.14))),
        saturation=float(np.exp(rng.normal(0.05, 0.2))),
        blur=float(rng.exponential(0.35)) if rng.random() < 0.6 else 0.0,
        motion=tuple(map(float, rng.normal(0, 1.6, 2))) if shaken else (0.0, 0.0),
        noise=float(rng.exponential(7.0 if dim else 2.5)),
        quality=int(rng.integers(35, 96)),
    )


def light(
    surface: Surface,
    level: Level,
    weather: Conditions,
    hulls: Float[np.ndarray, "S 4 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """A texture in the light of the hour, with the shadows of `hulls` on it."""
    facing = surfaces.normal(surface)
    colour = level.colour
    along = surface.across @ weather.sun / np.linalg.norm(surface.across)
    strength = float(0.75 * along * min(weather.sunlight.max(), 1.0))
    if level.slope is not None and abs(strength) > 0.02:
        colour = cv2.addWeighted(colour, 1.0, level.slope, strength, -128 * strength)
    ambient = weather.ambient * (0.8 + 0.2 * facing[2])
    direct = max(float(facing @ weather.sun), 0.0)
    lit = cv2.LUT(colour, _gain(ambient + direct * weather.sunlight))
    area = np.linalg.norm(surfaces.cross(surface.across, surface.down))
    if weather.shadows and direct > 0.05 and area > 9.0:
        mask = shadow(surface, weather.sun, hulls, level.colour.shape[:2])
        if mask is not None:
            cv2.copyTo(cv2.LUT(colour, _gain(ambient)), mask, lit)
    if level.glow is not None and weather.lamps > 0:
        lit = cv2.addWeighted(lit, 1.0, level.glow, weather.lamps, 0.0)
    return lit


def _gain(light: Float[np.ndarray, "3"]) -> UInt8[np.ndarray, "256 1 3"]:
    """The table that multiplies gamma-coded values by an amount of linear light."""
    table = np.arange(256)[:, None, None] * light ** (1 / _GAMMA)
    return np.rint(table.clip(0, 255)).astype(np.uint8)


def shadow(
    surface: Surface,
    sun: Float[np.ndarray, "3"],
    hulls: Float[np.ndarray, "S 4 3"],
    shape: tuple[int, int],
) -> UInt8[np.ndarray, "H W"] | None:
    """Where quadrangles keep the sun off a surface, in pixels of its texture."""
    facing = surfaces.normal(surface)
    height = (hulls - surface.corner) @ facing / (facing @ sun)  # along the light
    axes = np.stack([surface.across, surface.down])
    places = (hulls - height[..., None] * sun - surface.corner) @ np.linalg.pinv(axes)
    near = (places.max(1) > 0).all(1) & (places.min(1) < 1).all(1)
    near &= height.max(1) > 0.08
    if not near.any():
        return None
    mask = np.zeros(shape, np.uint8)
    for place, above in zip(places[near], height[near], strict=True):
        corners = place if above.min() > 0.02 else _raised(place, above - 0.02)
        if len(corners) > 2:
            pixels = np.round(corners * (shape[1], shape[0]) * 16)
            hull = cv2.convexHull(pixels.clip(-1e7, 1e7).astype(np.int32))
            cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_8, 4)
    return mask


def _raised(places: Float[np.ndarray, "K 2"], above: Float[np.ndarray, "K"]):
    """The part of a polygon where `above` is positive."""
    kept = []
    for i in range(len(places)):
        j = (i + 1) % len(places)
        if above[i] > 0:
            kept.append(places[i])
        if above[i] * above[j] < 0:
            share = above[i] / (above[i] - above[j])
            kept.append(places[i] + share * (places[j] - places[i]))
    return np.array(kept).reshape(-1, 2)


def paint_sky(
    rng: Random, weather: Conditions, upward: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A sky with clouds, for the elevations (sines) of the rays of all pixels."""
    size = upward.shape[::-1]
    width, height = (side // _SKY_STEP for side in size)
    upward = cv2.resize(upward, (width, height), None, 0, 0, cv2.INTER_AREA)
    zenith, horizon = np.array((weather.zenith, weather.horizon), np.float32)
    share = np.sqrt(upward.clip(0, 1))[..., None]
    colour = horizon + (zenith - horizon) * share
    puffs = canvas.noise(rng, (height // 2 + 1, width // 4 + 1), 1.4)
    puffs = cv2.resize(puffs, (width, height), None, 0, 0, cv2.INTER_CUBIC)
    amount = ((puffs + 2.4 * weather.cover - 1.2) * 0.7).clip(0, 0.9)[..., None]
    cloud = 0.5 * horizon + 0.57 * horizon.max()
    cloud = cloud * (1 - 0.06 * puffs.clip(-1, 2))[..., None]
    colour = (colour + (cloud - colour) * amount).clip(0, 255).astype(np.uint8)
    return cv2.resize(colour, size, None, 0, 0, cv2.INTER_LINEAR)


def develop(
    rng: Random,
    weather: Conditions,
    image: UInt8[np.ndarray, "H W 3"],
    inverse_depth: Float[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo that a camera makes of what stands before it."""
    if weather.haze > 0:
        image = _hazy(image, weather, inverse_depth)
    image = cv2.LUT(image, _curve(weather))
    if weather.saturation != 1:
        s = weather.saturation
        mixing = s * np.eye(3) + (1 - s) * np.array((0.3, 0.59, 0.11))
        image = cv2.transform(image, mixing)
    unit = max(image.shape[:2]) / 320
    if weather.blur * unit > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), weather.blur * unit)
    shake = np.array(weather.motion) * unit
    if np.abs(shake).max() > 0.7:
        image = cv2.filter2D(image, -1, _streak(shake))
    if weather.noise > 0.5:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(weather.noise)
        image = (image + grain).clip(0, 255).astype(np.uint8)
    if weather.quality < 100:
        image = _compressed(image, weather.quality)
    return image


def _hazy(image, weather: Conditions, inverse_depth):
    far = np.exp(np.float32(-weather.haze) / np.maximum(inverse_depth, 1e-4))
    far[inverse_depth <= 0] = 1  # the sky has its own colour
    horizon = weather.horizon.astype(np.float32)
    return (horizon + (image - horizon) * far[..., None] + 0.5).astype(np.uint8)


def _curve(weather: Conditions) -> UInt8[np.ndarray, "256 1 3"]:
    value = np.arange(256)[:, None, None] / 255 * weather.exposure * weather.balance
    value = 0.5 + (value - 0.5) * weather.contrast
    shoulder = np.where(value > 0.8, 0.8 + 0.2 * np.tanh((value - 0.8) / 0.2), value)
    return np.rint(255 * shoulder.clip(0, 1)).astype(np.uint8)


def _streak(shake: Float[np.ndarray, "2"]) -> Float[np.ndarray, "K K"]:
    """The kernel of a straight movement of the camera by (y, x) pixels."""
    reach = int(np.ceil(np.abs(shake).max() / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    ends = np.stack([reach - shake / 2, reach + shake / 2])[:, ::-1]
    start, end = (tuple(int(round(16 * v)) for v in p) for p in ends)
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def _compressed(image: UInt8[np.ndarray, "H W 3"], quality: int):
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)
