"""DELF as in the original's first example [DELF]: 40 components after PCA.

    python main.py download delf_gld --yes --out=models
    python main.py match a.jpg b.jpg --config=configs/delf_example.py

The projection is the copy that `convert` puts into the model folder.
"""

from ml_collections import ConfigDict

from configs import delf_gld


def get_config() -> ConfigDict:
    config = delf_gld.get_config()
    config.extraction.pca = ConfigDict()
    config.extraction.pca.mean = f"{config.model}/pca/mean.datum"
    config.extraction.pca.projection = f"{config.model}/pca/pca_proj_mat.datum"
    config.extraction.pca.dimension = 40
    return config
