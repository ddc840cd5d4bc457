"""Global descriptors from 3D reconstructions: R101-GeM on SfM-120k [GeM].

    python main.py train --config=configs/sfm120k_r101.py --workdir=runs/sfm120k \
        --config.init_from=models/imagenet_r101 \
        --config.data.sources.sfm.path=sfm120k/retrieval-SfM-120k.pkl

[GeM] 1711.02512. Query, positive and mined negatives as in its code: 2000 queries an
epoch, negatives from 20,000 images, at most one of a 3D model. BatchNorm is frozen, so
images keep their shape on a canvas. Whitening is learned from the pairs in the end and
belongs to the model. The triplet loss of the released DELF code:
--config.loss.contrastive=0 --config.loss.triplet=1 --config.loss.triplet_margin=0.85.

v5e-16 or 8xH100: --config.batch_size=16 --config.precision=bfloat16, on a pod with
--multihost. One GPU: as it is. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 100
epochs at 1024 px are 2.1 EFLOP: 75 minutes of 8xH100 or of a v5e-16, 10 hours of one
H100. Expected result, published: mAP 65.4 (medium) and 40.1 (hard) on ROxford, of
the authors' code. Not run here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.batch_size = 5  # tuples.
    config.steps = 40_000  # 100 epochs.
    config.ema_decay = 0.0
    config.checkpoint_every = 400
    config.views.kind = "tuple"
    config.views.size = 1024
    config.tuples.whiten = True
    config.loss.arcface = 0.0
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
    config.loss.contrastive = 1.0
    config.loss.contrastive_margin = 0.85
    config.optimizer.name = "adamw"
    # 5e-7 for 5 tuples in [GeM]; stated for 256, as all learning rates.
    config.optimizer.learning_rate = 5e-7 * 256 / 5
    config.optimizer.warmup_steps = 0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.final_factor = 0.37  # exp(-0.01) an epoch there.
    config.extraction.image_scales = (0.7071, 1.0, 1.4142)
    config.extraction.global_scales = (0, 1, 2)
    config.extraction.max_features = 0
    # Of ImageNet, which the start expects.
    config.extraction.pixel_mean = (123.675, 116.28, 103.53)
    config.extraction.pixel_std = (58.395, 57.12, 57.375)
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "global",
                "depth": 101,
                "width": 64,
                "layout": "v1.5",
                "normalization": "frozen",
                "pooling": "gem",
                "gem_power": 3.0,
                "learn_power": True,
                "global_dimension": 0,  # whitened after the training.
            }
        )
        config.data.sources.sfm = ConfigDict({"path": ""})
    return config
