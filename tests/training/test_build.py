"""What a config makes of a training, and what it refuses."""

import numpy as np
import pytest

from delf_jax.config import read_config
from delf_jax.files import InputError
from delf_jax.training import inputs
from delf_jax.training.build import make_static
from tests.helpers.tiny_training import TINY


def read(name="gldv2_arcface_r101", **changes):
    config = read_config(TINY.parent / f"{name}.py")
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.margin_kind": "sphere"},
            "loss.margin_kind is 'sphere': use arcface or",
        ),
        ({"loss.classifier": "split"}, "loss.classifier is 'split': use dense or"),
        ({"loss.classifier_dtype": "int8"}, "use float32 or bfloat16"),
        ({"loss.centers": 0}, "loss.centers must be 1 or more"),
        ({"loss.smoothing": 1.0}, r"loss.smoothing in \[0, 1\)"),
        (
            {"loss.classification": 1.0},
            "must be 0 for model.name global: it is for delf",
        ),
        ({"train_only": "head"}, "train_only is 'head'"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        make_static(read(**changes), 3, "batch")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "gldv2_arcface_r101",
            {"views.kind": "tuple"},
            "loss.arcface needs views.kind",
        ),
        (
            "sfm120k_r101",
            {"views.kind": "crop"},
            "contrastive needs views.kind 'tuple'",
        ),
        ("sfm120k_r101", {"model.normalization": "batch"}, 'must be "frozen"'),
        ("sfm120k_r101", {"views.size": 100}, "a multiple of 32"),
        ("how_r50", {"model.layout": "keras"}, "not 'keras'"),
    ],
)
def test_tuples_are_refused_where_they_cannot_be(name, changes, message):
    with pytest.raises(InputError, match=message):
        inputs.view_settings(read(name, **changes))


def test_margins_follow_the_images_of_each_class():
    config = read(**{"loss.margin": 0.1, "loss.rare_margin": 0.5})
    static, _ = make_static(config, 3, "batch", [1, 10, 10_000])
    assert isinstance(static.loss.margin, np.ndarray)
    np.testing.assert_allclose(static.loss.margin[[0, 2]], [0.5, 0.1], rtol=1e-6)
    assert static.loss.classes == 3
