"""DELG with ResNet-101, trained on GLDv2-clean [DELG].

    python main.py download r101delg_gldv2clean --yes --out=models
    python main.py reproduce --config=configs/r101delg_gldv2clean.py --data=data
    python main.py extract photos --config=configs/r101delg_gldv2clean.py --out=features

The paper, mAP in per cent, medium / hard:

                    ROxford      RParis       ROxford+R1M  RParis+R1M
    global          76.3 / 55.6  86.6 / 72.4  63.7 / 37.5  70.6 / 46.9
    + verification  81.2 / 64.0  87.2 / 72.8  69.1 / 47.5  71.5 / 48.7

38 of ROxford's 70 queries and 36 of RParis' show landmarks that GLDv2-clean contains:
give a list of them with --exclude_queries.
r101delg_gldv2clean_20200914 is the released model; the threshold came with it.
Cost on a CPU: more than half a day of one core for each dataset. Not run here.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r101delg_gldv2clean"
    config.extraction.attention_threshold = 357.48
    config.experiment = experiment.get_config()
    config.experiment.weights = "r101delg_gldv2clean_20200914"
    config.experiment.paper = (
        ("roxford5k", "global", 76.3, 55.6),
        ("rparis6k", "global", 86.6, 72.4),
        ("roxford5k+r1m", "global", 63.7, 37.5),
        ("rparis6k+r1m", "global", 70.6, 46.9),
        ("roxford5k", "verification", 81.2, 64.0),
        ("rparis6k", "verification", 87.2, 72.8),
        ("roxford5k+r1m", "verification", 69.1, 47.5),
        ("rparis6k+r1m", "verification", 71.5, 48.7),
    )
    return config
