"""DELG with ResNet-101 on Google Landmarks v2, cleaned [DELG].

    python main.py train --config=configs/delg_r101_gldv2clean.py \
        --workdir=runs/delg_r101_gldv2clean --config.init_from=models/imagenet_r101 \
        --config.data.sources.train.path=gldv2/train_clean.csv

[DELG] 2001.05027. ArcFace on the whitened GeM of block4; attention and an autoencoder
on block3, which they do not change. 25 epochs at 512 px, as in the paper.

v5e-16 or 8xH100: as it is, on a pod with --multihost. One GPU: also
--config.accumulate=8. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 39 million
images are 9.6 EFLOP: 5.6 hours of 8xH100, 45 of one, if the input keeps up.
Expected result, published: mAP 76.3 (medium) and 55.6 (hard) on ROxford by global
descriptors alone. Not run here.
"""

from ml_collections import ConfigDict

from configs import delg_r50_gldv1


def get_config() -> ConfigDict:
    config = delg_r50_gldv1.get_config()
    config.model.depth = 101
    config.steps = 154_000
    # Of 81,313 landmarks.
    config.loss.classifier_dtype = "bfloat16"
    return config
