"""DELG with ResNet-101 on the first Google Landmarks [DELG].

    python main.py train --config=configs/delg_r101_gldv1.py \
        --workdir=runs/delg_r101_gldv1 --config.init_from=models/imagenet_r101 \
        --config.data.sources.train.path=gldv1/train.csv

[DELG] 2001.05027. ArcFace on the whitened GeM of block4; attention and an autoencoder
on block3, which they do not change. 25 epochs at 512 px, as in the paper.

v5e-16 or 8xH100: as it is, on a pod with --multihost. One GPU: also
--config.accumulate=8. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 30 million
images are 7.3 EFLOP: 4.2 hours of 8xH100, 34 of one, if the input keeps up.
Expected result, published: mAP 73.2 (medium) and 51.2 (hard) on ROxford by global
descriptors alone. Not run here.
"""

from ml_collections import ConfigDict

from configs import delg_r50_gldv1


def get_config() -> ConfigDict:
    config = delg_r50_gldv1.get_config()
    config.model.depth = 101
    return config
