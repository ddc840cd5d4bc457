"""Networks of numbered stages with one narrow unit each, which compile in seconds."""

import pytest

from delf_jax import runtime
from delf_jax.extraction import model_folder
from delf_jax.models import compact, efficientnet_lite
from tests.helpers.random_models import random_variables

FEATURES = {1: 4, 2: 4, 3: 6, 4: 8, 5: 8, 6: 10, 7: 12}
STEM, LOCAL, HEAD = 8, 8, 16
LITE = {"name": "global", "backbone": "efficientnet_lite2", "global_dimension": 0}
PIXELS = {
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
}


def make_narrow(patch: pytest.MonkeyPatch) -> None:
    """CompactNet and its teacher have these stages as long as `patch` lasts."""
    ours = {
        number: stage._replace(
            units=1, features=FEATURES[number], expansion=2, fused=min(stage.fused, 1)
        )
        for number, stage in compact.STAGES.items()
    }
    theirs = tuple(
        stage._replace(
            units=1, features=FEATURES[number], expansion=min(stage.expansion, 2)
        )
        for number, stage in enumerate(efficientnet_lite.STAGES, 1)
    )
    for module, stages in ((compact, ours), (efficientnet_lite, theirs)):
        patch.setattr(module, "STAGES", stages)
        patch.setattr(module, "STEM", STEM)
        patch.setattr(module, "HEAD", HEAD)
    patch.setattr(compact, "LOCAL", LOCAL)
    # What is kept of a network goes by its source, which knows nothing of this.
    patch.setattr(runtime, "_networks", lambda: "narrow")


def save_lite(folder) -> str:
    """A model folder of the teacher with random weights."""
    extraction = {
        "max_features": 0,
        "image_scales": (1.0,),
        "global_scales": (0,),
        **PIXELS,
    }
    model_folder.save_model(folder, LITE, random_variables(LITE), extraction, {})
    return str(folder)
