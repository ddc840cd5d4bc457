"""HOW: local descriptors for ASMK, trained through their weighted sum [HOW].

    python main.py train --config=configs/how_r50.py --workdir=runs/how \
        --config.init_from=models/imagenet_r50 \
        --config.data.sources.sfm.path=sfm120k/retrieval-SfM-120k.pkl

[HOW] 2007.13172. ResNet-50 to block3, attention the length of a cell, 3x3 smoothing, a
reduction to 128 that PCA whitening of the first descriptors sets and nothing moves.
Contrastive loss of sums of descriptors, on the tuples of configs/sfm120k_r101.py.

v5e-16 or 8xH100: --config.batch_size=16 --config.precision=bfloat16, on a pod with
--multihost. One GPU: as it is. Cost, an estimate (60 TFLOP/s a H100, 40 a v5e): 20
epochs at 1024 px are 0.2 EFLOP: 6 minutes of 8xH100, 50 minutes of one, if the input
keeps up. Expected result, published, with ASMK* of 2000 descriptors: mAP 79.4 (medium)
and 56.9 (hard) on ROxford. Not run here.
"""

from ml_collections import ConfigDict

from configs import sfm120k_r101


def get_config() -> ConfigDict:
    config = sfm120k_r101.get_config()
    config.steps = 8_000  # 20 epochs.
    config.train_only = "backbone"
    config.tuples.whiten = False
    config.tuples.reduce_images = 5000
    config.loss.contrastive_margin = 0.8
    config.optimizer.learning_rate = 1e-6 * 256 / 5
    config.optimizer.final_factor = 0.82  # 0.99 an epoch there.
    config.extraction.image_scales = (0.25, 0.3535, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    config.extraction.global_scales = ()
    config.extraction.max_features = 1000
    with config.unlocked():
        config.model = ConfigDict(
            {
                "name": "how",
                "depth": 50,
                "width": 64,
                "layout": "v1.5",
                "normalization": "frozen",
                "reduced_dimension": 128,
            }
        )
    return config
