"""Graphs of OpenVINO: each network, on canvases of several sizes, beside JAX."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from delf_jax.extraction.model_folder import build_module
from delf_jax.models.architecture import fold_batch_norm
from tests.helpers.random_models import random_variables

# Not importorskip: what openvino_graph keeps it from importing would be imported.
try:
    from delf_jax.extraction import openvino_graph
except Exception:
    pytest.skip(
        "openvino, the extra [openvino], is not in this environment",
        allow_module_level=True,
    )

SMALL = {"depth": 26, "width": 4}
HEADS = {"attention_width": 8, "reduced_dimension": 8, "global_dimension": 16}
LOCAL = ("attention", "valid", "descriptors")
ARCHITECTURES = {
    "keras": {"name": "delg", "layout": "keras", "learn_power": True, **SMALL, **HEADS},
    "strides": {"name": "delg", "block3_strides": True, **SMALL, **HEADS},
    "slim": {"name": "delf", "layout": "slim", "block3_strides": True, **SMALL}
    | {"attention_width": 8},
    "how": {"name": "how", "reduced_dimension": 8, **SMALL},
    "mac": {"name": "global", "pooling": "mac", "global_dimension": 0, "depth": 18}
    | {"width": 4},
    "lite": {"name": "global", "backbone": "efficientnet_lite2", "pooling": "spoc"}
    | {"global_dimension": 8},
    "compact": {"name": "delg", "backbone": "compact", **HEADS},
}


def _network(kind):
    """(network, variables, names of what extraction takes of it)."""
    architecture = ARCHITECTURES[kind]
    variables = random_variables(architecture)
    if architecture.get("learn_power"):
        variables["params"]["gem_power"] = np.array(3.0)
    names = () if architecture["name"] == "global" else LOCAL
    if architecture["name"] != "delf":
        names = (*names, "global_descriptor")
    module, variables = fold_batch_norm(build_module(architecture), variables)
    return module, variables, names


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_graph_gives_what_jax_gives_whatever_the_canvas(kind):
    module, variables, names = _network(kind)
    graph = openvino_graph.make_graph(module, variables, 1, names)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    run = openvino_graph.ov.Core().compile_model(graph, "CPU", settings)
    size = (90, 77) if kind != "lite" else (90, 78)  # Lite2 wants even sides alone.
    image = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    expected = jax.jit(module.apply)(variables, image)
    y, x = (module.backbone.canvas_offset(side) for side in size)
    for sides in ((96, 96), (128, 160)):
        canvas = np.zeros((1, *sides, 3), np.float32)
        canvas[:, y : y + size[0], x : x + size[1]] = image
        sizes = np.array([size], np.int32)
        found = dict(zip(names, run([canvas, sizes]).values(), strict=True))
        for name in names:
            ours, theirs = np.asarray(expected[name], np.float32), found[name]
            if name in LOCAL:
                height, width = ours.shape[1:3]
                assert not found["valid"][:, height:].any()
                theirs = theirs[:, :height, :width]
            scale = max(np.abs(ours).max(), 1e-30)
            np.testing.assert_allclose(
                theirs / scale, ours / scale, atol=1e-5, err_msg=name
            )


def test_a_graph_may_be_without_its_global_branch():
    module, variables, names = _network("compact")
    make = functools.partial(openvino_graph.make_graph, module, variables, 1)
    counts = [
        sum(node.get_type_name() == "Convolution" for node in graph.get_ops())
        for graph in (make(LOCAL, global_branch=False), make(names))
    ]
    assert counts[0] < counts[1]


class _Cumulative(nn.Module):
    def __call__(self, canvases, sizes):
        return {"found": jax.lax.cumsum(canvases)}


def test_an_operation_without_translation_is_named():
    with pytest.raises(openvino_graph.UntranslatedError, match="^cumsum$"):
        openvino_graph.make_graph(_Cumulative(), {}, 1, ["found"])
