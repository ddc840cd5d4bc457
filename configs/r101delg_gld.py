"""DELG with ResNet-101, trained on the first Google Landmarks [DELG].

    python main.py download r101delg_gld --yes --out=models
    python main.py reproduce --config=configs/r101delg_gld.py --data=data
    python main.py extract photos --config=configs/r101delg_gld.py --out=features

The paper, mAP in per cent, medium / hard:

                    ROxford      RParis       ROxford+R1M  RParis+R1M
    global          73.2 / 51.2  82.4 / 64.7  54.8 / 30.3  61.8 / 35.5
    + verification  78.5 / 59.3  82.9 / 65.5  62.7 / 39.3  62.6 / 37.0

r101delg_gld_20200814 is the released model; the threshold came with it.
Cost on a CPU: more than half a day of one core for each dataset. Not run here.
"""

from ml_collections import ConfigDict

from configs import experiment, released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r101delg_gld"
    config.extraction.attention_threshold = 166.1
    config.experiment = experiment.get_config()
    config.experiment.weights = "r101delg_gld_20200814"
    config.experiment.paper = (
        ("roxford5k", "global", 73.2, 51.2),
        ("rparis6k", "global", 82.4, 64.7),
        ("roxford5k+r1m", "global", 54.8, 30.3),
        ("rparis6k+r1m", "global", 61.8, 35.5),
        ("roxford5k", "verification", 78.5, 59.3),
        ("rparis6k", "verification", 82.9, 65.5),
        ("roxford5k+r1m", "verification", 62.7, 39.3),
        ("rparis6k+r1m", "verification", 62.6, 37.0),
    )
    return config
