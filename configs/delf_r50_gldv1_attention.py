"""DELF, second of two stages: attention, on descriptors that are kept [DELF].

    python main.py train --config=configs/delf_r50_gldv1_attention.py \
        --workdir=runs/delf --config.init_from=runs/delf_descriptors \
        --config.data.sources.train.path=gldv1/train.csv

[DELF] 1612.06321. The backbone of configs/delf_r50_gldv1_descriptors.py stays bit for
bit, its BatchNorm included; attention learns through a softmax over landmarks of the
mean that it weights. Afterwards: extract, `fit pca STORE --dimension=40`.

v5e-16 or 8xH100: --config.precision=bfloat16, on a pod with --multihost. One GPU: also
--config.accumulate=4. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 50,000 steps of
256 images at 720 px, forward to block3 alone, are 0.9 EFLOP: half an hour of 8xH100, 4
hours of one, if the input keeps up. Expected: DELF-ASMK* on GLD reaches 67.8 mAP
(medium) and 43.1 (hard) on ROxford [ROP], with reranking. Not run here.
"""

from ml_collections import ConfigDict

from configs import delf_r50_gldv1_descriptors


def get_config() -> ConfigDict:
    config = delf_r50_gldv1_descriptors.get_config()
    config.steps = 50_000
    config.train_only = "attention"
    config.views.size = 720
    config.loss.classification = 0.0
    config.loss.attention = 1.0
    return config
