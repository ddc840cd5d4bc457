"""What ArcFace's margin, the autoencoder's weight and the size of the crop are worth.

    python main.py sweep --config=configs/ablation.py --workdir=runs/ablation --jobs=2

Each of the three is changed alone, around a small DELG [DELG] that is trained from
scratch on drawn landmarks, as configs/synthetic.py does, by smaller steps: 640 views of
20 landmarks. `--dry_run` prints the seven commands.

Cost: 1 to 2 minutes of a core for each. Result: the table in docs/training.md. It is of
one seed, and an accuracy on 160 views has a standard error of 0.04: crops of 96 pixels
are better in almost every column, and no other difference is significant yet.
"""

from ml_collections import ConfigDict

from configs import synthetic


def get_config() -> ConfigDict:
    config = synthetic.get_config()
    config.steps = 1000
    config.batch_size = 16
    config.checkpoint_every = 500
    config.images_every = 0
    config.views.size = 64
    config.views.area = (0.4, 1.0)
    config.views.colour = 0.0
    config.model.depth = 18
    config.model.width = 16
    config.model.attention_width = 32
    config.model.reduced_dimension = 32
    config.model.global_dimension = 128
    config.loss.scale = 11.3  # sqrt of the descriptor's dimension, as in [DELG].
    config.optimizer.learning_rate = 4.8e-2  # 3e-3 at this batch.
    config.optimizer.warmup_steps = 50
    config.validation.every = 500
    config.data.threads = 1
    config.data.sources.synthetic.landmarks = 20
    config.extraction.image_scales = (0.1768, 0.25, 0.3535, 1.0)
    config.extraction.global_scales = (0, 1, 2)
    return config


def sweep(add):
    add(**{"loss.margin": 0.1})
    for margin in (0.0, 0.3):
        add(**{"loss.margin": margin})
    for weight in (0.0, 1.0):
        add(**{"loss.reconstruction": weight})
    for size in (48, 96):
        add(**{"views.size": size})
