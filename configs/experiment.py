"""Every field of an experiment in retrieval; files with an `experiment` start here.

    python main.py reproduce --config=configs/r50delg_gld.py --data=data

DATA holds the photos and the ground truth as they are downloaded, each dataset in a
folder of its name or all in one: gnd_roxford5k.pkl with jpg/, and gnd_rparis6k.pkl
with jpg/. Any field can be set, as in `--config.experiment.codebook.words=1024`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A fresh section, locked; its defaults are those of [DELG]."""
    config = ConfigDict()
    config.weights = ""  # the released artefact that `convert` takes.
    config.datasets = ("roxford5k", "rparis6k")  # those in DATA are searched.
    config.ways = ("global", "verification")  # as --rerank of evaluate has them.
    config.verification = "delg"  # preset: "delg", "d2r"; "": this project's own.
    # For regional features: a file of boxes in a dataset's folder, or the folder of a
    # detector that finds them ("bundled": ours).
    config.boxes, config.detector = "", ""

    config.codebook = ConfigDict()
    config.codebook.words = 0  # visual words; 0: no codebook.
    config.codebook.iterations = 50
    config.codebook.seed = 0
    # A codebook that is there already, such as a released one; {} is the dataset that
    # it was learned on. "": it is learned here.
    config.codebook.path = ""
    # (dataset, dataset or folder of photos in DATA that its codebook is learned on).
    config.codebook.learned_on = (("roxford5k", "rparis6k"), ("rparis6k", "roxford5k"))

    # Published: (dataset, way, mAP medium, mAP hard), in per cent; "+r1m" is with the
    # million distractors.
    config.paper = ()
    return config.lock()
