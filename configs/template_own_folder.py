"""DELG for your own photos: copy this file, and change what is marked.

    python main.py train --config=configs/template_own_folder.py --workdir=runs/mine \
        --config.init_from=models/r50delg_gldv2clean \
        --config.data.sources.mine.path=FOLDER

[DELG] 2001.05027. FOLDER has a folder of photos for each thing that is to be told from
others; --config.data.sources.mine.path=LABELS.csv with columns image and label does as
well, with --config.data.sources.mine.images=FOLDER where the photos do not lie beside
it. `python main.py convert r50delg_gldv2clean` makes the model to start from, whose
architecture is taken along.

v5e-16 or 8xH100: --config.batch_size=256 --config.precision=bfloat16. One GPU: as it
is. Cost, an estimate (60 TFLOP/s a H100): 20,000 steps of 32 images at 512 px are 0.1
EFLOP: 25 minutes of one GPU. Expected result: see the accuracy on photos that were left
out of the training, every 1000 steps, and compare with the model you started from.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 20_000  # Change: about 20 times each photo.
    config.batch_size = 32
    config.views.kind = "crop"
    config.views.size = 512
    config.views.flip = False  # Change, where a mirrored photo shows the same.
    config.views.colour = 0.5
    config.loss.centers = 1  # Change to 3, where photos of a class differ a lot.
    config.loss.smoothing = 0.0  # Change to 0.1, where labels are often wrong.
    config.optimizer.learning_rate = 1e-3
    config.validation.every = 1000
    with config.unlocked():
        # Change: a fifth of each class validates with split "train"; "": none.
        config.data.sources.mine = ConfigDict(
            {"path": "", "images": "", "split": "train"}
        )
    return config
