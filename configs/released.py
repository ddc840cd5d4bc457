"""How the released DELG models extract; the files of the others start from this one.

    python main.py extract photos --config=configs/r50delg_gld.py --out=features

A file of extraction names a model, a folder that `convert` wrote, and which of its
settings are replaced; `--model` wins. A field that is absent is as in the model, and
any can be set, as in `--config.extraction.max_features=500`. Paths start from the
working directory. More fields: ExtractionSettings in delf_jax/extraction/settings.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A fresh config; the files that start from it name the model."""
    config = ConfigDict()
    config.model = ""  # the model that comes with the package.
    config.extraction = ConfigDict()
    # Factors of the pyramid, 2 ** -2 to 2 ** 1 in half steps, as they were rounded.
    scales = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
    config.extraction.image_scales = scales
    config.extraction.global_scales = (3, 4, 5)  # indices of image_scales; (): none.
    config.extraction.max_image_size = 1024  # pixels, longer side; 0: no bound.
    config.extraction.min_image_size = 0
    config.extraction.use_square_images = False
    config.extraction.use_resized_coordinates = False
    config.extraction.max_features = 1000  # 0: no local features.
    config.extraction.attention_threshold = 0.0  # in units of one trained model.
    config.extraction.locations = "delf"  # the original's; "exact" is more exact.
    # .datum files: mean, projection, variances (for use_whitening), and how many
    # components (dimension) are kept; an empty mean is no projection.
    config.extraction.pca = ConfigDict({"mean": ""})  # of local descriptors.
    config.extraction.global_pca = ConfigDict({"mean": ""})
    return config
