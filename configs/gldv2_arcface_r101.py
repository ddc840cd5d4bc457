"""The baseline of Google Landmarks v2: ResNet-101, GeM, ArcFace, no local features.

    python main.py train --config=configs/gldv2_arcface_r101.py --workdir=runs/gldv2 \
        --config.init_from=models/imagenet_r101 \
        --config.data.sources.train.path=gldv2/train_clean.csv

[GLDv2] 2004.01804; what it leaves open is as in [DELG]. For all of GLDv2, of 203,094
landmarks: train.csv, where "sharded" keeps the classifier at 1/devices on each.

v5e-16 or 8xH100: as it is, on a pod with --multihost. One GPU: also
--config.accumulate=4 --config.loss.classifier=dense. Cost, an estimate (60 TFLOP/s a
H100, 40 a v5e): 300,000 steps of 128 images at 512 px are 9.6 EFLOP: 6 hours of 8xH100
or of a v5e-16, 2 days of one H100. Expected result, published for GLDv2-clean: mAP 76.2
(medium) and 55.5 (hard) on ROxford. Not run here.

Later winners add --config.loss.centers=3 --config.loss.margin=0.05
--config.loss.rare_margin=0.5: sub-centres, and margins by the number of images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 300_000
    config.batch_size = 128
    config.precision = "bfloat16"
    config.views.kind = "crop"
    config.views.size = 512
    config.views.flip = True
    config.views.colour = 0.5
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.classifier = "sharded"
    config.loss.classifier_dtype = "bfloat16"
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-2
    config.extraction.image_scales = (0.7071, 1.0, 1.4142)
    config.extraction.global_scales = (0, 1, 2)
    config.extraction.max_features = 0
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "global",
                "depth": 101,
                "width": 64,
                "layout": "v1.5",
                "normalization": "batch",
                "pooling": "gem",  # or "spoc", "mac".
                "gem_power": 3.0,
                "learn_power": False,
                "global_dimension": 2048,  # 0: the pooled map itself.
            }
        )
        config.data.sources.train = ConfigDict({"path": "", "split": "train"})
    return config
