"""DELF-ASMK*: local descriptors alone, aggregated over 65,536 visual words [D2R].

    python main.py download delf_gld --yes --out=models
    python main.py reproduce --config=configs/delf_asmk.py --data=data

The codebook of each dataset is learned on the photos of the other. Published, mAP in
per cent, medium / hard, for the older weights of [DELF]: 67.8 / 43.1 on ROxford and
76.9 / 55.4 on RParis, verified; a run in Matlab without verification printed 67.64 /
42.98 and 76.85 / 55.42. The weights here are said to add some 4 points. With released
codebooks:
    --config.experiment.codebook.path=models/{}_codebook_65536/k65536_codebook_tfckpt/codebook
Cost: the features of both datasets and two codebooks of 65,536 words. Not run here.
"""

from ml_collections import ConfigDict

from configs import delf_gld, experiment


def get_config() -> ConfigDict:
    config = delf_gld.get_config()
    config.experiment = experiment.get_config()
    config.experiment.weights = "delf_gld_20190411/model"
    config.experiment.ways = ("asmk", "asmk+verification")
    config.experiment.verification = "d2r"
    config.experiment.codebook.words = 65_536
    config.experiment.paper = (
        ("roxford5k", "asmk", 67.64, 42.98),
        ("rparis6k", "asmk", 76.85, 55.42),
        ("roxford5k", "asmk+verification", 67.8, 43.1),
        ("rparis6k", "asmk+verification", 76.9, 55.4),
        ("roxford5k+r1m", "asmk+verification", 53.8, 31.2),
        ("rparis6k+r1m", "asmk+verification", 57.3, 26.4),
    )
    return config
