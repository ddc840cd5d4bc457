"""The bundled model, or another DELG, fine-tuned on your own photos, in minutes.

    python main.py train --config=configs/finetune_bundled.py --workdir=runs/mine \
        --config.data.sources.mine.path=FOLDER

FOLDER has a folder of photos for each thing that is to be told from others, some ten or
more in each; --config.data.sources.mine.path=LABELS.csv with columns image and label
does as well, with --config.data.sources.mine.images=FOLDER where the photos do not lie
beside it. A fifth of each class is left out: it chooses the checkpoint, and says what
is gained on photos like yours. --config.init_from=MODEL starts from another model,
whose architecture and extraction are taken along.

What follows the backbone learns, by ArcFace [DELG]: few photos spoil the backbone, and
local features stay bit for bit as they are, with what their inliers are worth. The
model is the mean of the learned weights and those of the start, which forgets less of
what your photos do not show [Wortsman2022].

Cost, an estimate: 300 steps of 32 views, five minutes of a CPU core (AMD Zen 4), less
than one on a GPU. With some thousand photos one GPU can train all of it:
--config.train_only= --config.views.size=320 --config.batch_size=64
--config.optimizer.learning_rate=2e-3 --config.steps=3000 --config.precision=bfloat16;
v5e-16 or 8xH100: the same with a batch of 512. Expected: docs/training.md.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 300  # Change: about 20 times each photo.
    config.batch_size = 32
    config.ema_decay = 0.99
    config.log_every = 10
    config.checkpoint_every = 0  # each validation saves.
    config.images_every = 0
    config.init_from = "bundled"
    config.init_share = 0.5  # Change to 0.25, where only your own photos count.
    config.train_only = "global"
    config.model.normalization = "frozen"  # statistics of small batches are noise.
    config.data.directory = "runs/data"
    config.data.max_side = 512
    config.views.kind = "crop"
    config.views.size = 192
    config.views.area = (0.3, 1.0)
    config.views.colour = 0.5
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.margin = 0.3
    config.loss.scale = 8.0  # of few classes: a larger one is soon content.
    config.optimizer.learning_rate = 2.4e-2  # 3e-3 at this batch.
    config.optimizer.warmup_steps = 20
    config.optimizer.weight_decay = 0.0
    config.validation.every = 50
    config.validation.patience = 3
    config.validation.search = True
    with config.unlocked():
        # Change "train" to "", to learn from all photos for all steps, and set
        # validation.every to 0.
        config.data.sources.mine = ConfigDict(
            {"path": "", "images": "", "split": "train"}
        )
    return config
