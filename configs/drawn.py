"""A drawn dataset in the shape of Revisited Oxford, with the bundled model.

    python -m tests.helpers.drawn data
    python main.py reproduce --config=configs/drawn.py --data=data

To see that everything runs, in seconds: a few small photos say nothing of a model.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.extraction.image_scales = (0.5, 0.7071, 1.0)
    config.extraction.global_scales = (0, 1, 2)
    config.extraction.max_image_size = 192
    config.extraction.max_features = 200
    config.extraction.locations = "exact"
    config.experiment = experiment.get_config()
    config.experiment.datasets = ("drawn",)
    config.experiment.ways = (
        "global",
        "superglobal",
        "verification",
        "asmk",
        "asmk+verification",
    )
    config.experiment.verification = ""
    config.experiment.codebook.words = 64
    config.experiment.codebook.learned_on = (("drawn", "training"),)
    return config
