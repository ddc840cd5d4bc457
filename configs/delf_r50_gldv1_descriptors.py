"""DELF, first of two stages: descriptors, through a softmax over landmarks [DELF].

    python main.py train --config=configs/delf_r50_gldv1_descriptors.py \
        --workdir=runs/delf_descriptors --config.init_from=models/imagenet_r50 \
        --config.data.sources.train.path=gldv1/train.csv

[DELF] 1612.06321. The whole ResNet-50 is fine-tuned on the mean of block4; the local
branch is not touched. The second stage is configs/delf_r50_gldv1_attention.py; both at
once: --config.train_only= --config.loss.attention=1.

v5e-16 or 8xH100: --config.precision=bfloat16, on a pod with --multihost. One GPU: also
--config.accumulate=2. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 100,000 steps of
256 images at 224 px are 0.6 EFLOP: 22 minutes of 8xH100, 3 hours of one, if the input
keeps up. Expected result: none of this stage alone is published. Not run here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.steps = 100_000
    config.batch_size = 256
    config.train_only = "descriptors"
    config.views.kind = "crop"
    config.views.size = 224
    config.views.colour = 0.0
    config.loss.arcface = 0.0
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.classification = 1.0
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 1e-4
    config.extraction.global_scales = ()
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "delf",
                "depth": 50,
                "width": 64,
                "layout": "v1.5",
                "normalization": "batch",
                "block3_strides": False,  # True: local features at stride 32.
                "attention_width": 512,
                # 0: block3 as it is; `fit pca` reduces it to 40 after the training.
                "reduced_dimension": 0,
            }
        )
        config.data.sources.train = ConfigDict({"path": "", "split": "train"})
    return config
