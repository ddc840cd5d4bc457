"""SSD on MobileNetV2 finds landmarks, from drawn ones and from boxes of your own.

    python main.py train --config=configs/detect_ssd.py --workdir=runs/ssd
    python main.py detect photos --out=boxes --model=runs/ssd/model

[Liu2016] 1512.02325 with the backbone of [Sandler2018] 1801.04381, as [D2R]'s smaller
detector; focal loss [Lin2017b] 1708.02002. Photos with boxes go beside the drawn ones:
--config.data.sources.photos.path=PHOTOS and .boxes=BOXES, a CSV of detect, COCO's JSON
or a folder of .boxes or of VOC's .xml files. An ImageNet backbone, or that of another
training, shortens it: --config.init_from=MODEL --config.init_partial=True.

Cost, an estimate: one GPU an hour, v5e-16 or 8xH100 some ten minutes; drawing takes 20
minutes of two cores once. Expected: AP50 above 0.9 on 600 views of landmarks that are
not trained on; not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 20_000
    config.batch_size = 32
    config.log_every = 50
    config.checkpoint_every = 1000
    config.views.kind = "boxes"
    config.views.size = 320
    config.views.area = (0.3, 1.0)
    config.views.flip = True
    config.views.colour = 0.7
    config.loss.arcface = 0.0
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.detection = 1.0
    config.optimizer.learning_rate = 8e-3  # 1e-3 at this batch.
    config.data.max_side = 640
    config.validation.every = 1000
    config.validation.drawn.landmarks = 100
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "ssd",
                "backbone": "mobilenet_v2",  # Or "compact", "efficientnet_lite2".
                "width": 32,  # channels of the stem, all others in proportion.
                "normalization": "batch",
                "image_size": 320,  # pixels; views.size must be the same.
            }
        )
        config.data.sources.drawn = ConfigDict(
            {"first": 0, "landmarks": 2000, "views": 8}
        )
    return config
