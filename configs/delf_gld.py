"""DELF of Detect-to-Retrieve [D2R]: local descriptors, 128 components after PCA.

    python main.py download delf_gld --yes --out=models
    python main.py extract photos --config=configs/delf_gld.py --out=features

The projection is the model's own: `convert` takes it from the download.
"""

from ml_collections import ConfigDict

from configs import released


def get_config() -> ConfigDict:
    config = released.get_config()
    config.model = "models/delf_gld"
    config.extraction.image_scales = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    config.extraction.global_scales = ()
    config.extraction.max_image_size = 0
    config.extraction.attention_threshold = 100.0
    del config.extraction.pca
    return config
