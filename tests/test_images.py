"""Decoding, size rules and resizing, against the original's numbers and odd files."""

import ast
import io
import json
import pathlib
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from delf_jax import images
from delf_jax.files import InputError


@pytest.fixture
def photo() -> np.ndarray:
    """A picture with a distinct value in every corner."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([y * 10, x * 6, 255 - y * 5], axis=2).astype(np.uint8)


def _write(path: pathlib.Path, image: Image.Image, **options) -> pathlib.Path:
    image.save(path, **options)
    return path


@pytest.mark.golden
def test_resize_bilinear_is_tensorflows_bit_for_bit(golden):
    stored = np.load(golden / "resize.npz")
    pixels = images.normalize_pixels(stored["image"])
    names = [name for name in stored if name.startswith("tf_image_resize/")]
    assert names
    for name in names:
        expected = stored[name]
        ours = images.resize_bilinear(pixels, expected.shape[:2])
        np.testing.assert_array_equal(ours, expected, err_msg=name)
    raw = stored["image"].astype(np.float32)
    for name in [n for n in stored if n.startswith("tf_image_resize_uint8_input/")]:
        ours = images.resize_bilinear(raw, stored[name].shape[:2])
        np.testing.assert_array_equal(ours, stored[name], err_msg=name)


@pytest.mark.golden
def test_images_are_resized_as_the_original_does(golden):
    stored = np.load(golden / "resize.npz")
    cases = [n.removesuffix("/input") for n in stored if n.endswith("/input")]
    assert cases
    for case in cases:
        given = stored[f"{case}/input"]
        maximum, minimum, square, factor = stored[
            f"{case}/config_max_min_square_factor"
        ].tolist()
        size = images.resize_rule(
            given.shape[:2], maximum, minimum, bool(square), factor
        )
        ours = images.resize_image(given, size).astype(int)
        # One grey level: Pillow's rounding may change between versions.
        assert np.abs(ours - stored[f"{case}/output"]).max() <= 1, case
        scale_factors = np.float32(size) / np.float32(given.shape[:2])
        np.testing.assert_allclose(scale_factors, stored[f"{case}/scale_factors"])


@pytest.mark.golden
def test_size_rules_are_the_originals(golden):
    table = json.loads((golden / "resize_rules.json").read_text())
    for row in table["rows"]:
        case = dict(zip(table["columns"], row, strict=True))
        arguments = (
            (case["height"], case["width"]),
            case["max_image_size"],
            case["min_image_size"],
            case["use_square_images"],
            case["resize_factor"],
        )
        if case["error"] is None:
            expected = (case["new_height"], case["new_width"])
            assert images.resize_rule(*arguments) == expected, case
        else:
            with pytest.raises(InputError):
                images.resize_rule(*arguments)


def test_a_negative_resize_factor_is_refused():
    with pytest.raises(InputError, match="negative"):
        images.resize_rule((10, 10), 5, None, False, -0.5)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=50)
def test_resizing_keeps_constants_and_bounds(height, width, new_height, new_width):
    rng = np.random.default_rng(height * 31 + width)
    image = rng.uniform(-1, 1, (height, width, 3)).astype(np.float32)
    resized = images.resize_bilinear(image, (new_height, new_width))
    assert resized.shape == (new_height, new_width, 3)
    assert resized.min() >= image.min() - 1e-6 and resized.max() <= image.max() + 1e-6
    constant = images.resize_bilinear(np.ones_like(image), (new_height, new_width))
    np.testing.assert_array_equal(constant, np.ones_like(resized))


def _tensorflow_1(image, height, width):
    """resize_bilinear with align_corners=False, pixel by pixel, in its float32."""
    out = np.zeros((height, width, 3), np.float32)
    steps = [
        np.float32(old) / np.float32(new)
        for old, new in zip(image.shape, (height, width), strict=False)
    ]
    for i in range(height):
        for j in range(width):
            y, x = np.float32(i) * steps[0], np.float32(j) * steps[1]
            top, left = int(y), int(x)
            bottom = min(top + 1, image.shape[0] - 1)
            right = min(left + 1, image.shape[1] - 1)
            a, b = np.float32(y - top), np.float32(x - left)
            upper = image[top, left] + (image[top, right] - image[top, left]) * b
            lower = (
                image[bottom, left] + (image[bottom, right] - image[bottom, left]) * b
            )
            out[i, j] = upper + (lower - upper) * a
    return out


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (9, 13), (20, 17), (18, 26)])
def test_legacy_resizing_samples_corners(size):
    image = np.random.default_rng(0).uniform(-1, 1, (9, 13, 3)).astype(np.float32)
    ours = images.resize_bilinear(image, size, legacy=True)
    np.testing.assert_array_equal(ours, _tensorflow_1(image, *size))
    np.testing.assert_array_equal(ours[0, 0], image[0, 0])


def test_pixels_are_normalised_by_channel():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    halves = images.normalize_pixels(image)
    assert halves.dtype == np.float32
    np.testing.assert_array_equal(halves, (image.astype(np.float32) - 128) / 128)
    mean, std = (123.68, 116.779, 103.939), (58.395, 57.12, 57.375)
    expected = (image - np.float64(mean)) / np.float64(std)
    np.testing.assert_allclose(
        images.normalize_pixels(image, mean, std), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path, photo, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _write(tmp_path / f"a.{suffix}", Image.fromarray(photo), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(images.read_image(path), expected)


def test_jpegs_are_decoded_as_pillow_does(tmp_path, photo):
    path = _write(tmp_path / "a.jpg", Image.fromarray(photo), quality=80)
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_grey_becomes_rgb(tmp_path, suffix):
    grey = Image.fromarray(np.full((12, 15), 77, np.uint8))
    image = images.read_image(_write(tmp_path / f"a.{suffix}", grey))
    assert image.shape == (12, 15, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - 77).max() <= 2


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("RGB", (16, 16), (200, 30, 20)).convert("CMYK")
    image = images.read_image(_write(tmp_path / "a.jpg", red, quality=95))
    assert np.abs(image.astype(int) - [200, 30, 20]).max() < 12


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.linspace(0, 65535, 200).astype(np.uint16).reshape(10, 20)
    image = images.read_image(_write(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(image[..., 0], values >> 8)
    image = images.read_image(_write(tmp_path / "a.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(image[..., 2], values >> 8)


def _tiff(values: np.ndarray, bits: int, sample: int = 1, white: int = 1) -> bytes:
    """A TIFF of one row of integers; white: 1, or 0 where this is the brightest."""
    data = values.tobytes()
    if bits == 12:
        numbers = "".join(f"{value:012b}" for value in values.tolist())
        data = int(numbers, 2).to_bytes(len(numbers) // 8)
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: white, 273: 8}
    tags |= {277: 1, 278: 1, 279: len(data), 339: sample}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, x) for tag, x in tags.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return header + data + struct.pack("<H", len(tags)) + entries + bytes(4)


RAMP = np.arange(256)


@pytest.mark.parametrize(
    "data",
    [
        _tiff(RAMP * 16 + 15, 12),
        _tiff(np.uint16(RAMP * 256 + 255), 16),
        _tiff(np.uint16(65535 - RAMP * 256), 16, white=0),
        b"P5 256 1 1023\n" + (RAMP * 4 + 2).astype(">u2").tobytes(),
    ],
)
def test_integers_of_a_known_depth_keep_the_upper_eight_bits(data, monkeypatch):
    monkeypatch.setattr(images, "add_note", pytest.fail)
    np.testing.assert_array_equal(images.decode_image(data)[0, :, 0], RAMP)


@pytest.mark.parametrize(
    "image",
    [
        _tiff(np.int16((RAMP - 128) * 200), 16, sample=2),
        _tiff(np.int32(RAMP * 5), 32, sample=2),
        _tiff(np.int32((RAMP - 9) * 7_000_000), 32, sample=2),
        _tiff(np.uint32(RAMP * 16_000_000), 32),
        Image.fromarray(np.int32(RAMP[None] * 3)),
    ],
)
def test_integers_of_unknown_brightness_are_scaled_by_their_range(image, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr(images, "add_note", notes.append)
    found = images.open_image(image)
    np.testing.assert_array_equal(found, np.repeat(RAMP[None, :, None], 3, axis=2))
    assert "signed integers do not say how bright these are" in notes[0]


def test_integers_that_are_all_the_same_are_read(monkeypatch):
    monkeypatch.setattr(images, "add_note", lambda line: None)
    flat = images.decode_image(_tiff(np.full(9, 70_000, np.int32), 32, sample=2))
    assert flat.shape == (1, 9, 3) and len(np.unique(flat)) == 1


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000", "MPO", "QOI", "TGA", "ICO"])
def test_formats_beside_jpeg_and_png_are_read(form):
    file, blue = io.BytesIO(), Image.new("RGB", (32, 32), (20, 40, 200))
    blue.save(file, form)
    assert (
        np.abs(images.decode_image(file.getvalue()).astype(int) - [20, 40, 200]).max()
        < 9
    )


def test_postscript_is_not_given_to_its_interpreter(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", pytest.fail)
    path = tmp_path / "a.jpg"
    head = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
    path.write_bytes(head + b"(x) run showpage\n%%EOF\n")
    with Image.open(path) as opened:
        assert opened.format == "EPS"
    with pytest.raises(InputError, match="a.jpg: not an image of a known format"):
        images.read_image(path)


def test_whatever_opens_images_names_their_formats():
    for path in pathlib.Path(images.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Image.open":
                assert "formats" in [word.arg for word in call.keywords], path


def test_one_bit_images_are_black_and_white(tmp_path):
    bits = Image.fromarray(np.eye(12, dtype=bool))
    image = images.read_image(_write(tmp_path / "a.png", bits))
    np.testing.assert_array_equal(image[..., 1], np.eye(12, dtype=np.uint8) * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_over_white(tmp_path, mode):
    image = Image.new("RGBA", (10, 10), (10, 20, 30, 255))
    image.paste((10, 20, 30, 0), (0, 0, 5, 10))
    path = _write(tmp_path / "a.png", image.convert(mode))
    read = images.read_image(path)
    assert (read[:, :5] == 255).all()
    assert (read[:, 5:] < 40).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
    path = _write(
        tmp_path / f"a.{suffix}",
        frames[0],
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if suffix == "webp" else {}),
    )
    np.testing.assert_array_equal(images.read_image(path)[5, 5], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    data = _write(tmp_path / f"a.{suffix}", Image.fromarray(noise)).read_bytes()
    path = tmp_path / f"torn.{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=f"torn.{suffix}"):
        images.read_image(path)


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def fail(image):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(InputError, match="a.png: not enough memory to decode it"):
        images.read_image(tmp_path / "a.png")


def test_damage_in_the_middle_of_a_jpeg_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = _write(tmp_path / "a.jpg", Image.fromarray(noise), quality=90)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\x12" * 40
    path.write_bytes(data)
    with pytest.raises(InputError, match="a.jpg: damaged"):
        images.read_image(path)


def test_padding_before_the_end_of_a_jpeg_is_harmless(tmp_path, photo):
    path = _write(tmp_path / "a.jpg", Image.fromarray(photo))
    expected = images.read_image(path)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"\0" * 7 + data[-2:])
    np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_what_is_no_image_is_refused_by_name(tmp_path, data):
    path = tmp_path / "strange.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match="strange.jpg: "):
        images.read_image(path)


def test_absent_files_and_folders_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="nowhere.jpg: no such file"):
        images.read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        images.read_image(tmp_path)


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    """20,000 x 20,000 pixels in a hundred bytes, of which only the header is good."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return (
            struct.pack(">I", len(data))
            + checked
            + (struct.pack(">I", zlib.crc32(checked)))
        )

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    )
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    with pytest.raises(InputError, match="bomb.png: 20000 x 20000 pixels"):
        images.read_image(path)
    assert Image.MAX_IMAGE_PIXELS is not None


def test_a_jpeg_bomb_is_refused_too(tmp_path, photo):
    path = _write(tmp_path / "a.jpg", Image.fromarray(photo))
    with pytest.raises(InputError, match="more than the 0.0005 million"):
        images.read_image(path, max_pixels=500)


def _file_of(photo: np.ndarray, form: str = "png", **options) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, form, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "image_of",
    [
        lambda photo, path: path,
        lambda photo, path: str(path),
        lambda photo, path: path.read_bytes(),
        lambda photo, path: bytearray(path.read_bytes()),
        lambda photo, path: _file_of(photo),
        lambda photo, path: Image.open(path),
        lambda photo, path: Image.fromarray(photo),
        lambda photo, path: photo,
        lambda photo, path: photo[:, ::-1][:, ::-1],
        lambda photo, path: photo / 255,
        lambda photo, path: np.float32(photo) / np.float32(255),
        lambda photo, path: jnp.asarray(photo),
        lambda photo, path: jnp.asarray(photo, jnp.float32) / 255,
        lambda photo, path: np.dstack([photo, np.full((24, 40), 255, np.uint8)]),
    ],
)
def test_an_image_is_opened_whatever_holds_it(tmp_path, photo, image_of):
    path = _write(tmp_path / "a.png", Image.fromarray(photo))
    opened = images.open_image(image_of(photo, path))
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(opened, photo)


def test_grey_arrays_become_rgb(photo):
    grey = photo[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for array in (grey, grey[..., None], grey / 255):
        np.testing.assert_array_equal(images.open_image(array), expected)


def test_transparent_pixels_of_arrays_and_pillow_images_lie_over_white():
    rgba = np.full((10, 10, 4), (10, 20, 30, 255), np.uint8)
    rgba[:, :5, 3] = 0
    for image in (rgba, rgba / 255, Image.fromarray(rgba)):
        opened = images.open_image(image)
        assert (opened[:, :5] == 255).all() and (opened[:, 5:] == [10, 20, 30]).all()


def test_a_pillow_image_is_turned_upright_and_left_as_it_was(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(_file_of(photo, "jpeg", exif=exif, quality=95))
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(images.open_image(image), expected)
    np.testing.assert_array_equal(images.open_image(image), expected)
    assert image.size == (40, 24)


@pytest.mark.parametrize(
    "image, message",
    [
        (3, "expected a path, a PIL.Image, .* got int"),
        (None, "got NoneType"),
        ([[0, 1], [1, 0]], "got list"),
        (np.zeros((4, 5, 2), np.uint8), r"expected an array .* got \[4, 5, 2\]"),
        (np.zeros((3, 40, 50), np.uint8), r"got \[3, 40, 50\]"),
        (np.zeros((0, 5, 3)), r"got \[0, 5, 3\]"),
        (np.zeros((4, 5, 3), np.int64), r"expected uint8, .* got int64"),
        (np.zeros((4, 5), np.uint16), r"got uint16: scale them to 8 bits"),
        (np.full((4, 5, 3), 2.0), r"expected float pixels in \[0, 1\], got 2 to 2"),
        (np.full((4, 5, 3), -1.0), r"in \[0, 1\], got -1 to -1"),
        (np.full((4, 5, 3), np.nan), r"in \[0, 1\], got nan"),
        (b"", "the file is empty"),
        (b"no image", "not an image of a known format"),
        (io.BytesIO(b"no image"), "not an image of a known format"),
        (io.StringIO("text"), "mode 'rb'"),
    ],
)
def test_what_holds_no_image_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        images.open_image(image)


def test_damaged_closed_and_large_images_in_memory_are_refused(photo):
    data = _file_of(photo).getvalue()
    torn = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(InputError, match="damaged"):
        images.open_image(torn)
    closed = _file_of(photo)
    closed.close()
    with pytest.raises(InputError, match="cannot be read"):
        images.open_image(closed)
    with pytest.raises(InputError, match="more than the 0.0005 million"):
        images.open_image(Image.fromarray(photo), max_pixels=500)


def test_images_are_called_by_their_files_or_numbers(tmp_path, photo):
    path = _write(tmp_path / "a.png", Image.fromarray(photo))
    with open(path, "rb") as file, Image.open(path) as opened:
        for image in (path, str(path), file, opened):
            assert images.image_name(image, 3) == str(path)
    for image in (photo, jnp.asarray(photo), Image.fromarray(photo), b"", None):
        assert images.image_name(image, 3) == "image 3"


def test_floating_point_images_are_refused(tmp_path):
    path = _write(tmp_path / "a.tif", Image.fromarray(np.ones((8, 8), np.float32)))
    with pytest.raises(InputError, match="a.tif: floating-point"):
        images.read_image(path)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_images_are_read(tmp_path, size):
    image = Image.new("RGB", size, "green")
    assert images.read_image(_write(tmp_path / "a.png", image)).shape[:2] == size[::-1]


def test_a_broken_exif_block_does_not_matter(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.decode_image(buffer.getvalue()).shape == photo.shape
