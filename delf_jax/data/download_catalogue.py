"""Where datasets can be fetched from: addresses as their authors document them.

What others trained is in released_catalogue.py, and a part of DOWNLOADS, too.
"""

from delf_jax.data.download_entry import Download, Files
from delf_jax.data.released_catalogue import RELEASED

_GLDV2 = "https://s3.amazonaws.com/google-landmark"
_GLDV2_README = "https://github.com/cvdfoundation/google-landmark"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_REVISITED_README = "https://github.com/filipradenovic/revisitop"
_R1M = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
_SOLAR = "https://imperialcollegelondon.box.com/shared/static"
_SFM = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train"


def _gldv2_images(split: str, count: int, size: int) -> Files:
    return Files(
        f"{_GLDV2}/{split}/images_{{}}.tar",
        f"{split}/images_{{}}.tar",
        size,
        tuple(f"{number:03}" for number in range(count)),
        f"{_GLDV2}/md5sum/{split}/md5.images_{{}}.txt",
        split,
    )


def _gldv2_table(name: str, folder: str = "metadata") -> Files:
    return Files(f"{_GLDV2}/{folder}/{name}", name)


# Sizes of the TARs of GLDv2: its README. Of Oxford and Paris: what users measured; the
# faces in these images are blurred since June 2022.
DOWNLOADS = {
    "roxford5k": Download(
        "Revisited Oxford: images and ground truth",
        _REVISITED_README,
        (
            Files(
                f"{_OXFORD}/oxbuildings/oxbuild_images-v1.tgz",
                "oxbuild_images-v1.tgz",
                1_938_238_004,
                unpack="jpg",
            ),
            Files(f"{_REVISITED}/roxford5k/gnd_roxford5k.mat", "gnd_roxford5k.mat"),
            Files(f"{_REVISITED}/roxford5k/gnd_roxford5k.pkl", "gnd_roxford5k.pkl"),
        ),
    ),
    "rparis6k": Download(
        "Revisited Paris: images and ground truth",
        _REVISITED_README,
        (
            Files(
                f"{_OXFORD}/parisbuildings/paris_{{}}-v1.tgz",
                "paris_{}-v1.tgz",
                numbers=("1", "2"),
                unpack="jpg",
            ),
            Files(f"{_REVISITED}/rparis6k/gnd_rparis6k.mat", "gnd_rparis6k.mat"),
            Files(f"{_REVISITED}/rparis6k/gnd_rparis6k.pkl", "gnd_rparis6k.pkl"),
        ),
    ),
    "revisitop1m": Download(
        "a million distractors for Revisited Oxford and Paris",
        _REVISITED_README,
        (
            Files(f"{_R1M}/revisitop1m.txt", "revisitop1m.txt"),
            Files(
                f"{_R1M}/jpg/revisitop1m.{{}}.tar.gz",
                "revisitop1m.{}.tar.gz",
                numbers=tuple(str(number) for number in range(1, 101)),
                unpack="jpg",
            ),
        ),
    ),
    "gldv2_train": Download(
        "Google Landmarks v2, 4 132 914 training images and their labels",
        _GLDV2_README,
        (
            _gldv2_table("train.csv"),
            _gldv2_table("train_clean.csv"),
            _gldv2_table("train_attribution.csv"),
            _gldv2_table("train_label_to_category.csv"),
            _gldv2_images("train", 500, 10**9),
        ),
    ),
    "gldv2_index": Download(
        "Google Landmarks v2, 761 757 index images and their labels",
        _GLDV2_README,
        (
            _gldv2_table("index.csv"),
            _gldv2_table("index_image_to_landmark.csv"),
            _gldv2_table("index_label_to_category.csv"),
            _gldv2_images("index", 100, 850 * 10**6),
        ),
    ),
    "gldv2_test": Download(
        "Google Landmarks v2, 117 577 test images and solutions 2.1",
        _GLDV2_README,
        (
            _gldv2_table("test.csv"),
            _gldv2_table("recognition_solution_v2.1.csv", "ground_truth"),
            _gldv2_table("retrieval_solution_v2.1.csv", "ground_truth"),
            _gldv2_images("test", 20, 500 * 10**6),
        ),
    ),
    "gldv1": Download(
        "Google Landmarks v1: its authors no longer offer it",
        "https://www.kaggle.com/google/google-landmarks-dataset",
        (),
    ),
    "sfm120k": Download(
        "retrieval-SfM-120k: images and pairs to train on",
        "https://github.com/filipradenovic/cnnimageretrieval-pytorch",
        (
            Files(f"{_SFM}/dbs/retrieval-SfM-120k.pkl", "dbs/retrieval-SfM-120k.pkl"),
            Files(
                f"{_SFM}/dbs/retrieval-SfM-120k-whiten.pkl",
                "dbs/retrieval-SfM-120k-whiten.pkl",
            ),
            Files(f"{_SFM}/ims/ims.tar.gz", "ims.tar.gz", unpack="ims"),
        ),
    ),
    "gld_boxes": Download(
        "Google Landmark Boxes [D2R]: of 86 000 images of GLDv1, from SOLAR's authors",
        "https://github.com/tonyngjichun/SOLAR",
        (
            Files(f"{_SOLAR}/2b3vhx3unjldu27p1m31z4vwfnkvcops.csv", "boxes_split1.csv"),
            Files(f"{_SOLAR}/d2ui9mjwcvwa6f17gaoca6w6sr7tjmzg.csv", "boxes_split2.csv"),
        ),
    ),
    **RELEASED,
}
