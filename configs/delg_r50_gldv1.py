"""DELG with ResNet-50 on the first Google Landmarks [DELG].

    python main.py train --config=configs/delg_r50_gldv1.py \
        --workdir=runs/delg_r50_gldv1 --config.init_from=models/imagenet_r50 \
        --config.data.sources.train.path=gldv1/train.csv

[DELG] 2001.05027. ArcFace on the whitened GeM of block4; attention and an autoencoder
on block3, which they do not change. 25 epochs at 512 px, as in the paper.

v5e-16 or 8xH100: as it is, on a pod with --multihost. One GPU: also
--config.accumulate=8. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 30 million
images are 3.8 EFLOP: 2.2 hours of 8xH100, 18 of one, if the input keeps up.
Expected result, published: mAP 69.7 (medium) and 45.1 (hard) on ROxford by global
descriptors alone. Not run here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 120_000
    config.batch_size = 256
    config.precision = "bfloat16"
    config.views.kind = "crop"
    config.views.size = 512
    config.views.colour = 0.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-2  # of the released code, for 256 images.
    config.optimizer.schedule = "linear"
    config.optimizer.weight_decay = 0.0  # none is in effect there.
    with config.unlocked():
        config.data.sources.train = ConfigDict({"path": "", "split": "train"})
    return config
