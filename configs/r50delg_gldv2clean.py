"""DELG with ResNet-50, trained on GLDv2-clean [DELG].

    python main.py convert r50delg_gldv2clean_20200914 --out=models/r50delg_gldv2clean
    python main.py extract photos --config=configs/r50delg_gldv2clean.py --out=features

r50delg_gldv2clean_20200914 is the released model; the threshold came with it.
"""

from ml_collections import ConfigDict

from configs import released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/r50delg_gldv2clean"
    config.extraction.attention_threshold = 454.6
    return config
