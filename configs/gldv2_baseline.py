"""The baseline of Google Landmarks v2: ResNet-101, GeM, ArcFace, no local features.

    python main.py train --config=configs/gldv2_baseline.py --workdir=runs/gldv2 \
        --config.data.sources.train.path=FOLDER_OF_CLASS_FOLDERS

[GLDv2] 2004.01804; what it leaves open is as in [DELG]. Published for GLDv2-clean: mAP
76.23 (medium) and 55.54 (hard) on ROxford. Not run here: 1.6 million photos need
several accelerators for days. --config.init_from=MODEL starts from another's weights.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.batch_size = 128
    config.views.size = 512
    config.loss.attention = 0.0
    config.loss.reconstruction = 0.0
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
                "pooling": "gem",  # or "spoc", "mac".
                "gem_power": 3.0,
                "learn_power": False,
                "global_dimension": 2048,  # 0: the pooled map itself.
            }
        )
        config.data.sources.train = ConfigDict({"path": ""})
    return config
