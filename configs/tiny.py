"""A training of seconds, to see that everything runs; its model recognises nothing.

    python main.py train --config=configs/tiny.py --workdir=runs/tiny \
        --config.data.sources.images.path=FOLDER_OF_CLASS_FOLDERS
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 6
    config.batch_size = 4
    config.log_every = 2
    config.checkpoint_every = 3
    config.model.depth = 18
    config.model.width = 8
    config.model.attention_width = 16
    config.model.reduced_dimension = 16
    config.model.global_dimension = 32
    config.views.size = 64
    config.views.resolutions = (64.0, 96.0)
    config.loss.correspondence = 1.0
    config.loss.matchability = 0.2
    config.optimizer.learning_rate = 6.4e-2  # 1e-3 at this batch.
    config.optimizer.warmup_steps = 2
    config.data.max_side = 128
    config.extraction.max_image_size = 160
    with config.unlocked():
        config.data.sources.images = ConfigDict({"path": ""})
    return config
