"""delf_jax as a matcher of vismatch (1.4), beside its own.

    matcher = DelfJax(device="cpu")
    result = matcher("a.jpg", "b.jpg")  # num_inliers, H, matched_kpts0, ...

vismatch hands over pixels and finds the homography; `model` is a folder of a model, the
bundled one by default, and further names are settings of extraction.
"""

import numpy as np
from vismatch import BaseMatcher

import delf_jax

_OF_RANSAC = ("ransac_iters", "ransac_conf", "ransac_reproj_thresh")


class DelfJax(BaseMatcher):
    """DELF or DELG features, matched where each is the nearest of the other."""

    def __init__(self, device="cpu", model=None, **kwargs):
        of_ransac = {name: kwargs.pop(name) for name in _OF_RANSAC if name in kwargs}
        super().__init__(device, **of_ransac)
        self._model, self._settings = delf_jax.load_model(model), kwargs

    def _forward(self, img0, img1):
        first, second = (self._extract(pixels) for pixels in (img0, img1))
        matches = delf_jax.match(first, second).matches
        points = [_xy(each) for each in (first, second)]
        descriptors = [np.asarray(x.local.descriptors) for x in (first, second)]
        a, b = (d[rows] for d, rows in zip(descriptors, matches.T, strict=True))
        cosines = np.sum(a * b, axis=1)
        matched = (p[rows] for p, rows in zip(points, matches.T, strict=True))
        return *matched, *points, *descriptors, cosines

    def _extract(self, pixels):
        """Features of a tensor [3, H, W] with values in [0, 1], or a little beside."""
        image = np.moveaxis(pixels.cpu().numpy(), 0, -1).clip(0, 1)
        return delf_jax.extract(image, self._model, **self._settings)


def _xy(features):
    """Places [N, 2] as (x, y)."""
    return np.asarray(features.local.locations)[:, ::-1].astype(np.float32)
