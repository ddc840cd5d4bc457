"""The backbone that is taught: its maps, its sizes, what a cell sees, who learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models import compact
from delf_jax.models.architecture import build, fold_batch_norm
from delf_jax.models.compact import CompactNet
from delf_jax.models.receptive_field import block3_cells, field_of_block3
from tests.helpers.narrow import make_narrow

SIZE, CANVAS = (61, 74), 96
AT_END = (0, 1)
IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


@pytest.fixture
def narrow(monkeypatch):
    make_narrow(monkeypatch)


def shapes_of(module):
    return jax.eval_shape(module.init, jax.random.key(0), IMAGES)


def draw(rng, path, x):
    """Random weights of a folded network whose maps neither fade nor saturate."""
    if path[-1].key == "bias":
        return rng.normal(0, 0.1, x.shape).astype(np.float32)
    gain = 0.1 if path[-2].key == "project" else 1
    deviation = np.sqrt(gain / np.prod(x.shape[:-1]))
    return rng.normal(0, deviation, x.shape).astype(np.float32)


@pytest.fixture(scope="module")
def folded():
    """The network without BatchNorm, with random weights."""
    module, rng = CompactNet("folded"), np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        functools.partial(draw, rng), shapes_of(module)
    )
    return module, variables, jax.jit(module.apply)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(1).normal(size=(*SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def alone(folded, photo):
    """The maps of a photo that fills its array."""
    _, variables, apply = folded
    return jax.tree.map(lambda x: np.asarray(x[0]), apply(variables, photo[None]))


def naive_conv(x, layer, stride=1, border=None, relu6=True):
    """A convolution of one map by windows, in float64; of each channel where it is."""
    kernel, bias = (np.asarray(layer[n], np.float64) for n in ("kernel", "bias"))
    side = kernel.shape[0]
    border = border or (side // 2, side // 2)
    x = np.pad(x, (border, border, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (0, 1))
    windows = windows[::stride, ::stride]  # [h, w, C, side, side]
    if kernel.shape[2] == 1 and kernel.shape[3] == x.shape[2] and side > 1:
        y = np.einsum("hwcij,ijc->hwc", windows, kernel[:, :, 0])
    else:
        y = np.einsum("hwcij,ijcf->hwf", windows, kernel, optimize=True)
    return np.clip(y + bias, 0, 6) if relu6 else y + bias


def naive_forward(params, image):
    """The maps of one image, from the table of the stages."""
    # units, kernel, stride, how many with plain convolutions
    table = {
        2: (2, 3, 2, 2),
        3: (3, 5, 2, 1),
        4: (4, 3, 2, 0),
        5: (4, 5, 1, 0),
        6: (5, 5, 2, 0),
        7: (1, 3, 1, 0),
    }
    maps = {}
    x = naive_conv(image.astype(np.float64), params["stem"], 2, AT_END)
    for number, (units, _, stride, fused) in table.items():
        for unit in range(1, units + 1):
            layers = params[f"stage{number}_unit{unit}"]
            step = stride if unit == 1 else 1
            border = AT_END if (number, unit) == (2, 1) else None
            if unit <= fused:
                y = naive_conv(x, layers["expand"], step, border)
            else:
                y = naive_conv(x, layers["expand"])
                y = naive_conv(y, layers["depthwise"], step, border)
            y = naive_conv(y, layers["project"], relu6=False)
            x = x + y if x.shape == y.shape else y
        maps[number] = x
    fine = naive_conv(maps[3], params["local_fine"], relu6=False)
    coarse = naive_conv(maps[5], params["local_coarse"], relu6=False)
    coarse = np.array(
        [
            [coarse[row // 2, column // 2] for column in range(fine.shape[1])]
            for row in range(fine.shape[0])
        ]
    )
    together = np.clip(fine + coarse, 0, 6)
    return {
        "block3": naive_conv(together, params["local"]),
        "block4": np.maximum(naive_conv(x, params["head"], relu6=False), 0),
    }


def test_maps_are_those_of_a_naive_network(folded, photo, alone):
    module, variables, _ = folded
    expected = naive_forward(variables["params"], photo)
    assert alone.keys() == expected.keys()
    for name, stage in expected.items():
        found, size = alone[name], module.stage_sizes(SIZE)[name]
        assert found.shape == stage.shape == (*size, module.channels(name))
        # Neither faded nor saturated: the numbers say something.
        assert 0.05 < stage.std() < 3 and (stage == 6).mean() < 0.5
        np.testing.assert_allclose(found, stage, atol=2e-5 * stage.max())


def test_an_image_gives_the_same_bits_alone_and_in_a_batch_of_canvases(
    folded, photo, alone
):
    module, variables, apply = folded
    canvas = np.zeros((3, CANVAS, CANVAS, 3), np.float32)
    canvas[:2, : SIZE[0], : SIZE[1]] = photo
    canvas[2] = 9  # an empty place in the batch may hold anything
    found = apply(variables, canvas, np.int32([SIZE, SIZE, (0, 0)]))
    for name, (height, width) in module.stage_sizes(SIZE).items():
        for number in (0, 1):
            inside = found[name][number, :height, :width]
            np.testing.assert_array_equal(inside, alone[name], err_msg=name)


def test_the_empty_canvas_does_leak_in_without_sizes(narrow):
    module, rng = CompactNet("folded"), np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        functools.partial(draw, rng), shapes_of(module)
    )
    canvas = np.zeros((1, 96, 96, 3), np.float32)
    canvas[:, :61, :74] = rng.normal(size=(61, 74, 3))
    apply = jax.jit(module.apply)
    sized = apply(variables, canvas, np.int32([(61, 74)]))
    plain = apply(variables, canvas)
    for name, (height, width) in module.stage_sizes((61, 74)).items():
        difference = sized[name] - plain[name]
        assert np.abs(difference[0, height - 1, :width]).max() > 1e-4


@pytest.mark.parametrize("height", [4, 5, 6, 7, 33, 34, 63, 96])
def test_stage_sizes_are_those_of_the_network(narrow, height):
    module = CompactNet("folded")
    variables = shapes_of(module)
    for width in (4, 13, 30, 71):
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        maps = jax.eval_shape(module.apply, variables, image)
        found = {name: x.shape[1:3] for name, x in maps.items()}
        assert found == module.stage_sizes((height, width))


def test_it_has_as_many_parameters_as_its_table_says():
    """Counted layer by layer: a kernel, and a scale and an offset of each channel."""

    def conv(inputs, outputs, side=1, depthwise=False):
        return side**2 * (1 if depthwise else inputs) * outputs + 2 * outputs

    total, width = conv(3, compact.STEM, 3), compact.STEM
    widths = {}
    for number, stage in compact.STAGES.items():
        for unit in range(1, stage.units + 1):
            wide = stage.expansion * width
            if unit <= stage.fused:
                total += conv(width, wide, stage.kernel_size)
            else:
                total += conv(width, wide)
                total += conv(wide, wide, stage.kernel_size, depthwise=True)
            total += conv(wide, stage.features)
            width = stage.features
        widths[number] = width
    total += conv(widths[3], compact.LOCAL) + conv(widths[5], compact.LOCAL)
    total += conv(compact.LOCAL, compact.LOCAL, 3) + conv(width, compact.HEAD)
    shapes = shapes_of(CompactNet())["params"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) == total
    assert f"{total / 1e6:.1f} million parameters" in compact.__doc__


def test_its_stages_are_as_wide_as_the_teachers_and_lie_on_the_same_cells():
    """So that each can learn the teacher's map as it is."""
    from delf_jax.models.efficientnet_lite import EfficientNetLite

    def maps_of(module):
        def run(images):
            return module.init_with_output(jax.random.key(0), images, train=True)[0]

        return {n: x.shape for n, x in jax.eval_shape(run, IMAGES).items()}

    ours, theirs = maps_of(CompactNet()), maps_of(EfficientNetLite())
    taught = {*(f"stage{number}" for number in range(2, 8)), "block4"}
    assert {n: ours[n] for n in taught} == {n: theirs[n] for n in taught}


def test_folded_batch_norm_gives_the_same_maps(narrow, rng):
    module = build(
        {
            "name": "delg",
            "backbone": "compact",
            "attention_width": 8,
            "reduced_dimension": 4,
            "global_dimension": 4,
        }
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)

    def draw_leaf(path, x):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        spread = 0.2 if x.ndim == 1 else np.sqrt(1 / np.prod(x.shape[:-1]))
        return rng.normal(0, spread, x.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw_leaf, shapes)
    folded_module, folded_variables = fold_batch_norm(module, variables)
    image = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
    expected = jax.jit(module.apply)(variables, image)
    found = jax.jit(folded_module.apply)(folded_variables, image)
    assert found.keys() == expected.keys() - {"expanded", "attended"}
    for name in ("block3", "descriptors", "attention", "global_descriptor"):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5 * scale)


def test_training_of_batch_statistics_refuses_canvases(narrow):
    module = CompactNet()
    with pytest.raises(ValueError, match="sizes"):
        jax.eval_shape(
            functools.partial(module.apply, train=True, mutable=["batch_stats"]),
            shapes_of(module),
            IMAGES,
            jnp.ones((1, 2), jnp.int32),
        )


def test_forced_stages_learn_alone_and_others_with_those_before_them(narrow, rng):
    """The gradient of a stage's map, by the parameters of every unit."""
    module = CompactNet()
    images = jnp.asarray(rng.normal(size=(2, 64, 64, 3)), jnp.float32)
    variables = jax.jit(functools.partial(module.init, train=True))(
        jax.random.key(0), images
    )
    run = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    maps, _ = jax.eval_shape(run, variables, images)
    forced = {
        name: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
        for name, x in maps.items()
        if name.startswith("stage")
    }

    @jax.jit
    def learned(params, whether):
        instead = {name: (whether, x) for name, x in forced.items()}

        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            found, _ = run(given, images, forced=instead)
            return (found["stage5"] ** 2).sum()

        return jax.tree.map(lambda x: jnp.abs(x).max(), jax.grad(loss)(params))

    def units(whether):
        gradients = learned(variables["params"], jnp.full((2, 1, 1, 1), whether))
        return {n for n, x in gradients.items() if max(jax.tree.leaves(x)) > 0}

    assert units(True) == {"stage5_unit1"}
    before = {f"stage{number}_unit1" for number in (2, 3, 4, 5)}
    assert units(False) == {"stem", *before}


def test_a_stage_that_is_forced_reads_the_map_it_is_given(narrow, rng):
    """The same maps twice; forced ones that are its own change nothing.

    Of two images one is forced: the other is as if none were.
    """
    module = CompactNet("folded")
    variables = jax.tree_util.tree_map_with_path(
        functools.partial(draw, rng), shapes_of(module)
    )
    run = jax.jit(functools.partial(module.apply, train=True))
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    plain, doubled = run(variables, images), run(variables, 2 * images)
    first = jnp.array([True, False]).reshape(2, 1, 1, 1)
    forced = {n: (first, x) for n, x in plain.items() if n.startswith("stage")}
    own = run(variables, images, forced=forced)
    other = run(variables, 2 * images, forced=forced)
    for name, value in plain.items():
        np.testing.assert_allclose(own[name], value, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(other[name][1], doubled[name][1], atol=1e-5)
        if name != "stage2":  # all others read what they are given, not the images.
            np.testing.assert_allclose(other[name][0], value[0], atol=1e-5)
        else:
            assert np.abs(other[name][0] - value[0]).max() > 1e-2


@pytest.fixture
def thin(monkeypatch):
    """All units, two channels each."""
    two = {n: s._replace(features=2, expansion=1) for n, s in compact.STAGES.items()}
    monkeypatch.setattr(compact, "STAGES", two)
    for name in ("STEM", "LOCAL", "HEAD"):
        monkeypatch.setattr(compact, name, 2)


@pytest.fixture
def averaging(thin):
    """A network of positive means without biases: it answers only to what it sees."""

    def constant(x):
        fan_in = np.prod(x.shape[:-1])
        return jnp.full(x.shape, 1 / fan_in if len(x.shape) > 1 else 0, x.dtype)

    module = CompactNet("folded")
    return module, jax.tree.map(constant, shapes_of(module))


def is_seen(averaging, side, cell, lines):
    """Whether a cell answers to a dark image with one bright row, or column."""
    module, variables = averaging
    images = np.zeros((len(lines), side, side, 3), np.float32)
    images[range(len(lines)), lines] = 1
    run = jax.jit(functools.partial(module.apply, last="block3"))
    by_row, by_column = (
        np.asarray(run(variables, x)["block3"])[:, cell, cell].max(-1) > 0
        for x in (images, images.swapaxes(1, 2))
    )
    np.testing.assert_array_equal(by_row, by_column)
    return by_row.tolist()


@pytest.mark.parametrize("cell", [31, 32])
def test_a_cell_of_block3_sees_its_field(averaging, cell):
    """The coarse map that even cells and their neighbours read lies one cell up."""
    side = 512
    field = field_of_block3(averaging[0], side)
    centre, half = field.offset + field.stride * (cell - (cell == 32)), field.size // 2
    lines = [centre - half - 1, centre - half, centre + half, centre + half + 1]
    assert lines[0] >= 0 and lines[-1] < side
    assert is_seen(averaging, side, cell, lines) == [False, True, True, False]


@pytest.mark.parametrize("cell", [12, 13])
def test_cells_lie_where_the_fine_map_looks(averaging, cell):
    """Without the coarse map, the field is centred for all cells."""
    module, variables = averaging
    variables["params"]["local_coarse"]["kernel"] *= 0
    field = field_of_block3(module, 208)
    assert (field.stride, field.offset) == (8, 3)
    centre = field.offset + field.stride * cell
    lines = [centre - 56, centre - 55, centre + 55, centre + 56]
    assert is_seen(averaging, 208, cell, lines) == [False, True, True, False]


def test_cells_of_block3_are_told_in_pixels_of_the_image(thin):
    module = CompactNet()
    cells = np.array([[0, 0], [3, 5]], np.float64)
    level, image = np.array([128.0, 128]), np.array([256.0, 256])
    centres, half, scale = block3_cells(module, cells, level, image, sampled_at=0.5)
    np.testing.assert_allclose(centres, (cells * 8 + 3 + 0.5) * 2 - 0.5)
    assert (half, scale) == ((field_of_block3(module, 128).size - 1) / 2 * 2, 2)
