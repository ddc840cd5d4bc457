"""SSD on MobileNetV2 finds landmarks, from drawn ones and from boxes of your own.

    python main.py train --config=configs/detect_ssd.py --workdir=runs/ssd
    python main.py detect photos --out=boxes --model=runs/ssd/model

[Liu2016] 1512.02325 with the backbone of [Sandler2018] 1801.04381, as [D2R]'s smaller
detector; focal loss [Lin2017b] 1708.02002. configs/detect_own_boxes.py learns from your
photos. A backbone of another training, or of ImageNet, shortens it:
--config.init_from=MODEL --config.init_partial=True.

One GPU: as it is. v5e-16 or 8xH100: --config.batch_size=256 for an eighth of the steps.
Cost, an estimate: 6 GFLOP an image, 640,000 of which take one GPU 20 minutes, as fast
as the processors can decode them; two cores alone do 3 images a second. Drawing takes
two cores an hour, once. Expected: AP50 of at least 0.9 on 600 views of landmarks that
are not trained on; not measured yet.
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
