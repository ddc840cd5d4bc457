"""What ArcFace's margin, the autoencoder's weight and the size of the crop are worth.

    python main.py sweep --config=configs/ablation.py --workdir=runs/ablation --jobs=2

Each of the three is changed alone, around a small DELG [DELG] that is trained from
scratch on drawn landmarks; a fifth of each landmark's views is held out, and how many
of these are classified rightly is the result. `--dry_run` prints the seven commands.
`--config.validation.dataset=FOLDER_OF_FOLDERS` adds the mAP on photos.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 600
    config.batch_size = 16
    config.ema_decay = 0.99
    config.devices = 1
    config.checkpoint_every = 200
    config.model.depth = 18
    config.model.width = 16
    config.model.attention_width = 32
    config.model.reduced_dimension = 32
    config.model.global_dimension = 128
    config.views.size = 96
    config.views.resolutions = (96.0, 192.0)
    config.loss.scale = 11.3  # sqrt of the descriptor's dimension, as in [DELG].
    config.optimizer.learning_rate = 4.8e-2  # 3e-3 at this batch.
    config.optimizer.warmup_steps = 50
    config.data.directory = "runs/data"
    config.data.threads = 1
    config.data.max_side = 256
    config.validation.every = 200
    config.extraction.image_scales = (0.5, 0.7071, 1.0)
    config.extraction.global_scales = (0, 1, 2)
    config.extraction.max_image_size = 256
    with config.unlocked():
        config.data.sources.synthetic = ConfigDict(
            {"first": 1000, "landmarks": 40, "views": 20, "split": "train"}
        )
    return config


def sweep(add):
    add(**{"loss.margin": 0.1})
    for margin in (0.0, 0.3):
        add(**{"loss.margin": margin})
    for weight in (0.0, 1.0):
        add(**{"loss.reconstruction": weight})
    for size in (64, 128):
        add(**{"views.size": size})
