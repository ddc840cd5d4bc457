"""Detect-to-Retrieve: R-ASMK*, the whole photo and its detected regions [D2R].

    python main.py download delf_gld --yes --out=models
    python main.py download d2r_frcnn --yes --out=models
    python main.py reproduce --config=configs/d2r_asmk.py --data=data

As configs/delf_asmk.py, with boxes of a score of 0.1 and more that the original's
detector finds in the photos of the index, which takes TensorFlow (extra [tf]);
--config.experiment.detector=bundled is ours, and the folder of any other is taken, too.
The paper, mAP in per cent, medium / hard:

                        ROxford      RParis       ROxford+R1M  RParis+R1M
    R-ASMK*             73.3 / 47.6
    + verification      76.0 / 52.4  80.2 / 58.6  64.0 / 38.1  59.7 / 29.4

The first is what the original's instructions print. Its verification draws at random
without a seed. Cost: features of each photo and its regions, and two codebooks. Not
run here.
"""

from ml_collections import ConfigDict

from configs import delf_asmk


def get_config() -> ConfigDict:
    config = delf_asmk.get_config()
    config.experiment.detector = "models/released/d2r_frcnn_20190411"
    config.experiment.paper = (
        ("roxford5k", "asmk", 73.3, 47.61),
        ("roxford5k", "asmk+verification", 76.0, 52.4),
        ("rparis6k", "asmk+verification", 80.2, 58.6),
        ("roxford5k+r1m", "asmk+verification", 64.0, 38.1),
        ("rparis6k+r1m", "asmk+verification", 59.7, 29.4),
    )
    return config
