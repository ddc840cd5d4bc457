"""DELG with ResNet-50, trained on the first Google Landmarks [DELG].

    python main.py download r50delg_gld --yes --out=models
    python main.py reproduce --config=configs/r50delg_gld.py --data=data
    python main.py extract photos --config=configs/r50delg_gld.py --out=features

The paper, mAP in per cent, medium / hard:

                    ROxford      RParis       ROxford+R1M  RParis+R1M
    global          69.7 / 45.1  81.6 / 63.4  55.0 / 27.8  59.7 / 34.1
    + verification  75.1 / 54.2  82.3 / 64.9  61.1 / 36.8  60.5 / 34.8

The original's instructions print 69.71 / 45.11 on ROxford, and 75.42 / 53.72 verified.
r50delg_gld_20200814 is the released model; the threshold came with it.
Cost: 8.5 s a photo on one core of a CPU, half a day for each dataset. Not run here.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r50delg_gld"
    config.extraction.attention_threshold = 175.0
    config.experiment = experiment.get_config()
    config.experiment.weights = "r50delg_gld_20200814"
    config.experiment.paper = (
        ("roxford5k", "global", 69.7, 45.1),
        ("rparis6k", "global", 81.6, 63.4),
        ("roxford5k+r1m", "global", 55.0, 27.8),
        ("rparis6k+r1m", "global", 59.7, 34.1),
        ("roxford5k", "verification", 75.1, 54.2),
        ("rparis6k", "verification", 82.3, 64.9),
        ("roxford5k+r1m", "verification", 61.1, 36.8),
        ("rparis6k+r1m", "verification", 60.5, 34.8),
    )
    return config
