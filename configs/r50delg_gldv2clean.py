"""DELG with ResNet-50, trained on GLDv2-clean [DELG].

    python main.py download r50delg_gldv2clean --yes --out=models
    python main.py reproduce --config=configs/r50delg_gldv2clean.py --data=data
    python main.py extract photos --config=configs/r50delg_gldv2clean.py --out=features

The paper, mAP in per cent, medium / hard:

                    ROxford      RParis       ROxford+R1M  RParis+R1M
    global          73.6 / 51.0  85.7 / 71.5  60.6 / 32.7  68.6 / 44.4
    + verification  78.3 / 57.9  85.7 / 71.0  67.2 / 43.6  69.6 / 45.7

38 of ROxford's 70 queries and 36 of RParis' show landmarks that GLDv2-clean contains:
give a list of them with --exclude_queries.
r50delg_gldv2clean_20200914 is the released model; the threshold came with it.
Cost: 8.5 s a photo on one core of a CPU, half a day for each dataset. Not run here.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r50delg_gldv2clean"
    config.extraction.attention_threshold = 454.6
    config.experiment = experiment.get_config()
    config.experiment.weights = "r50delg_gldv2clean_20200914"
    config.experiment.paper = (
        ("roxford5k", "global", 73.6, 51.0),
        ("rparis6k", "global", 85.7, 71.5),
        ("roxford5k+r1m", "global", 60.6, 32.7),
        ("rparis6k+r1m", "global", 68.6, 44.4),
        ("roxford5k", "verification", 78.3, 57.9),
        ("rparis6k", "verification", 85.7, 71.0),
        ("roxford5k+r1m", "verification", 67.2, 43.6),
        ("rparis6k+r1m", "verification", 69.6, 45.7),
    )
    return config
