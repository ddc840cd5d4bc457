"""The small detector goes on with boxes that matches have found on real photos.

    python main.py train --config=configs/detect_small.py --workdir=runs/small
    python main.py train --config=configs/detect_real.py --workdir=runs/real \
        --config.init_from=runs/small

Needs the files of boxes named below, which benchmarks/pseudo_boxes.py makes: where
verified matches of photos of one place lie, and photos of fields, coasts and rooms that
have none. Drawn landmarks are a third of what it sees.

Cost: 12,800 images at 20 to 30 a second of one core. Measured, beside what it starts
from: boxes of real photos are better, AP 0.21 for 0.18 on places that no training saw,
and those of drawn landmarks worse, AP50 0.83 for 0.91 (docs/detection.md).
"""

from ml_collections import ConfigDict

from configs import detect_small
from configs.delg_tiny import HOLDOUT, VALIDATION_GROUPS


def get_config() -> ConfigDict:
    config = detect_small.get_config()
    config.steps = 800
    config.optimizer.learning_rate = 2.4e-2  # 1.5e-3 at this batch.
    config.optimizer.warmup_steps = 50
    with config.unlocked():
        config.data.sources.drawn.weight = 0.35
        for name, folder, weight, holdout in (
            ("photos", "photos", 0.1, HOLDOUT),
            ("more", "photos_more", 0.55, VALIDATION_GROUPS),
        ):
            config.data.sources[name] = ConfigDict(
                {
                    "path": f"../shared/{folder}/labels.csv",
                    "images": f"../shared/{folder}/images",
                    "boxes": f"runs/{name}_boxes.json",
                    "label_column": "landmark",
                    "holdout": holdout,
                    "split": "train",  # a fifth of each place validates.
                    "weight": weight,
                }
            )
    return config
