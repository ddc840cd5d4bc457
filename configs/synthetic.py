"""delg_tiny's network learns drawn landmarks, from scratch and from their names alone.

    python main.py train --config=configs/synthetic.py --workdir=runs/synthetic

[DELG] 2001.05027, its objective as it is, on images that two CPU cores can do: 1600
views of 50 landmarks, in crops of 96 pixels. Measured on it: the accuracy on 400 other
views of these, and the mAP among 240 views of 40 landmarks that are not trained on.

Cost: drawing 1 to 2 minutes, once; training about 6 minutes of two cores. Result, one
seed: accuracy 0.86 (0.02 by chance), mAP 0.43; the network before its first step has
an mAP of 0.05. docs/synthetic.png has the curves; rounding moves them on another
machine.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 1500
    config.batch_size = 32
    config.ema_decay = 0.99
    config.log_every = 20
    config.checkpoint_every = 450
    config.images_every = 400
    config.devices = 1
    config.model.depth = 22
    config.model.width = 32
    config.model.attention_width = 64
    config.model.reduced_dimension = 128
    config.model.global_dimension = 256
    config.views.kind = "crop"
    config.views.size = 96
    config.views.area = (0.3, 1.0)
    config.views.colour = 0.5
    config.loss.scale = 16.0  # sqrt of the descriptor's dimension, as in [DELG].
    config.optimizer.learning_rate = 1.6e-2  # 2e-3 at this batch.
    config.optimizer.warmup_steps = 100
    config.data.directory = "runs/data"
    config.data.threads = 2
    config.data.max_side = 256
    config.validation.every = 150
    config.validation.examples = 0
    config.validation.drawn.landmarks = 40
    config.extraction.image_scales = (0.3535, 0.5, 0.7071, 1.0)
    config.extraction.global_scales = (0, 1)  # the sizes that crops show.
    config.extraction.max_image_size = 384
    with config.unlocked():
        config.data.sources.synthetic = ConfigDict(
            {"first": 1000, "landmarks": 50, "views": 40, "split": "train"}
        )
    return config
