"""Deep local and global image features in JAX: match photos, search many, train.

    extract(images)           features of an image, or a list of those of many
    match(a, b)               matches, inliers and affine map of two images; .draw()
    build_index(images)       an index in memory, or at path=; .search(image), .add, ...
    open_index(path)          an index that was built before
    evaluate(dataset, index)  rankings of a dataset with ground truth, scored
    detect(images)            boxes of landmarks in an image, or in each of many
    load_model(folder)        a model; without a folder the bundled one
    settings_for(model)       its settings of extraction, some replaced by name
    open_store(path)          features that `extract` of the command line wrote
    read_image(path)          an image file as uint8 [H, W, 3], turned upright
    read_runs(folder)         what the trainings of a sweep changed and measured
    draw_matches(a, b, ...)   the figure of any two images and their matches
    Features                  what one image gives: .local, .global_descriptor, .image
    InputError                what is wrong with a file or setting, in one sentence

An image is a path, a PIL.Image, an array of numpy or jax ([H, W, 3] or [H, W]; uint8,
or float in [0, 1]), the bytes of an image file, or an open file. docs/python.md has an
example of each; help(delf_jax.extract) has more words. The packages below are for those
who build on them: help("delf_jax.search") says where to begin.
"""

import importlib
import typing

__version__ = "0.1.0"

# Where each name lies; imported when it is first used, so that --help stays fast.
_MODULES = {
    "Features": "features",
    "InputError": "files",
    "build_index": "search.photo_search",
    "detect": "detection.one_call",
    "draw_matches": "report.figures",
    "evaluate": "evaluation.one_call",
    "extract": "extraction.one_call",
    "load_model": "extraction.model_folder",
    "match": "search.match",
    "open_index": "search.photo_search",
    "open_store": "store.feature_store",
    "read_image": "images",
    "read_runs": "report.runs",
    "settings_for": "extraction.settings",
}

if typing.TYPE_CHECKING:
    from delf_jax.detection.one_call import detect as detect
    from delf_jax.evaluation.one_call import evaluate as evaluate
    from delf_jax.extraction.model_folder import load_model as load_model
    from delf_jax.extraction.one_call import extract as extract
    from delf_jax.extraction.settings import settings_for as settings_for
    from delf_jax.features import Features as Features
    from delf_jax.files import InputError as InputError
    from delf_jax.images import read_image as read_image
    from delf_jax.report.figures import draw_matches as draw_matches
    from delf_jax.report.runs import read_runs as read_runs
    from delf_jax.search.match import match as match
    from delf_jax.search.photo_search import build_index as build_index
    from delf_jax.search.photo_search import open_index as open_index
    from delf_jax.store.feature_store import open_store as open_store
else:  # A type checker that saw this would take any name.

    def __getattr__(name: str) -> typing.Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        # Kept: the next use costs nothing.
        globals()[name] = value = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
