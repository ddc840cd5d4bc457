"""DELG with ResNet-50, trained on the first Google Landmarks [DELG].

    python main.py convert r50delg_gld_20200814 --out=models/r50delg_gld
    python main.py extract photos --config=configs/r50delg_gld.py --out=features

r50delg_gld_20200814 is the released model; the threshold came with it.
"""

from ml_collections import ConfigDict

from configs import released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r50delg_gld"
    config.extraction.attention_threshold = 175.0
    return config
