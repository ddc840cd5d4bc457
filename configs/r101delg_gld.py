"""DELG with ResNet-101, trained on the first Google Landmarks [DELG].

    python main.py convert r101delg_gld_20200814 --out=models/r101delg_gld
    python main.py extract photos --config=configs/r101delg_gld.py --out=features

r101delg_gld_20200814 is the released model; the threshold came with it.
"""

from ml_collections import ConfigDict

from configs import released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r101delg_gld"
    config.extraction.attention_threshold = 166.1
    return config
