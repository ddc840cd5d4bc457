"""SSD finds landmarks, learned from boxes of your own photos.

    python main.py train --config=configs/detect_own_boxes.py --workdir=runs/mine \
        --config.data.sources.mine.path=PHOTOS --config.data.sources.mine.boxes=BOXES
    python main.py detect more_photos --out=boxes --model=runs/mine/model

[Liu2016] 1512.02325. BOXES is a CSV as `detect` writes it, the JSON of COCO, or a
folder of .boxes or of Pascal VOC's .xml files. --config.init_from=runs/ssd/model starts
from a detector that configs/detect_ssd.py has trained.

One GPU: as it is. v5e-16 or 8xH100: --config.batch_size=256 for an eighth of the steps.
Cost, an estimate: 6 GFLOP an image, 160,000 of which take one GPU some minutes, as fast
as the processors can decode them. Expected result: see AP on the fifth of the photos
that is left out of the training, every 500 steps.
"""

from ml_collections import ConfigDict

from configs import detect_ssd


def get_config() -> ConfigDict:
    config = detect_ssd.get_config()
    config.steps = 5000  # Change: about 50 times each photo.
    config.validation.every = 500
    config.validation.drawn.landmarks = 0
    with config.unlocked():
        # Change: a fifth of the photos validates with split "train"; "": none.
        config.data.sources = ConfigDict(
            {"mine": {"path": "", "boxes": "", "split": "train"}}
        )
    return config
