"""delf_jax as an extractor of hloc: copy this file to hloc/extractors/delf_jax.py.

    conf = {
        "output": "feats-delf-jax",
        "model": {"name": "delf_jax"},
        "preprocessing": {"grayscale": False, "resize_max": 1024},
    }
    features = extract_features.main(conf, images, outputs)
    pairs_from_retrieval.main(features, pairs, num_matched=20, ...)
    matches = match_features.main(match_features.confs["NN-mutual"], pairs,
                                  conf["output"], outputs)

Local features and the global descriptor come to one file. "max_features" and other
settings of extraction may stand beside the name, as may "folder", that of a model.
"""

import numpy as np
import torch
from hloc.utils.base_model import BaseModel

import delf_jax


class DELFJax(BaseModel):
    """DELF or DELG features of an image, the strongest attention first."""

    default_conf = {"folder": None}
    required_inputs = ["image"]
    # Standard deviation of a place in a cell of 16 pixels, for hloc's verification.
    detection_noise = 16 / 12**0.5

    def _init(self, conf):
        ours = {name: value for name, value in conf.items() if name != "name"}
        self.extractor = delf_jax.load_model(ours.pop("folder"))
        self.settings = ours

    def _forward(self, data):
        pixels = data["image"][0].cpu().numpy()  # [3, H, W], but for resizing in [0, 1]
        image = np.moveaxis(pixels, 0, -1).clip(0, 1)
        features = delf_jax.extract(image, self.extractor, **self.settings)
        found = {}
        if features.local is not None:
            local = features.local
            found |= {
                "keypoints": local.locations[:, ::-1],  # (x, y)
                "descriptors": local.descriptors.T,
                "scores": local.attention,
                "scales": local.scales,
            }
        if features.global_descriptor is not None:
            found["global_descriptor"] = features.global_descriptor
        return {name: _tensor(array) for name, array in found.items()}


def _tensor(array):
    """A batch of one."""
    return torch.from_numpy(np.array(array, np.float32)[None])
