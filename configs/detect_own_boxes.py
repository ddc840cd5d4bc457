"""The bundled detector goes on with boxes of your own photos, in minutes of one core.

    python main.py train --config=configs/detect_own_boxes.py --workdir=runs/mine \
        --config.data.sources.mine.path=PHOTOS --config.data.sources.mine.boxes=BOXES
    python main.py detect more_photos --out=boxes --model=runs/mine/model

BOXES is a CSV as `detect` writes it, the JSON of COCO, or a folder of .boxes or of
Pascal VOC's .xml files. The backbone stays as it is; --config.train_only= trains all of
it, for which some thousand photos and a GPU are needed. To train another network, start
from configs/detect_ssd.py.

One GPU: as it is; --config.devices=0 takes all of a v5e-16 or 8xH100, which it does not
need. Cost, an estimate: 6400 images at 16 a second of one core. Expected result: see AP
on the fifth of the photos that is left out of the training, every 100 steps.
"""

from ml_collections import ConfigDict

from configs import detect_tiny


def get_config() -> ConfigDict:
    config = detect_tiny.get_config()
    config.steps = 400  # Change: about 50 times each photo.
    config.init_from = "bundled_detector"
    config.init_partial = False
    config.optimizer.learning_rate = 1.6e-2  # 1e-3 at this batch.
    config.optimizer.warmup_steps = 20
    config.ema_decay = 0.98
    config.validation.every = 100
    config.validation.drawn.landmarks = 0
    with config.unlocked():
        # Change: a fifth of the photos validates with split "train"; "": none.
        config.data.sources = ConfigDict(
            {"mine": {"path": "", "boxes": "", "split": "train"}}
        )
    return config
