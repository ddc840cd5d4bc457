"""A global descriptor alone: the released ResNet-101 with ArcFace of [GLDv2].

    python main.py download rn101_af_gldv2clean --yes --out=models
    python main.py reproduce --config=configs/rn101_af_gldv2clean.py --data=data
    python main.py extract photos --config=configs/rn101_af_gldv2clean.py --out=features

Its baseline of retrieval and recognition; ranked by one dot product. Published with the
model, mAP in per cent, medium / hard: 76.23 / 55.54 on ROxford; 38 of the 70 queries
there show landmarks that GLDv2-clean contains (--exclude_queries). Not run here.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/rn101_af_gldv2clean"
    config.extraction.image_scales = (0.70710677, 1.0, 1.4142135)
    config.extraction.global_scales = (0, 1, 2)
    config.extraction.max_features = 0
    config.experiment = experiment.get_config()
    config.experiment.weights = "rn101_af_gldv2clean_20200814"
    config.experiment.ways = ("global",)
    config.experiment.verification = ""
    config.experiment.paper = (("roxford5k", "global", 76.23, 55.54),)
    return config
