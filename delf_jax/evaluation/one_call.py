"""A dataset evaluated in one call."""

import os
from typing import Any, NamedTuple

from delf_jax.evaluation import datasets, evaluation, report
from delf_jax.evaluation.evaluation import Evaluation
from delf_jax.extraction.one_call import ModelLike
from delf_jax.extraction.settings import settings_for
from delf_jax.index.photo_index import model_of
from delf_jax.search.matching import verification_settings
from delf_jax.search.pipeline import parse_pipelines


class Scores(NamedTuple):
    """What rankings of a dataset are worth; prints as a table."""

    evaluation: Evaluation

    def __repr__(self) -> str:
        return "\n".join(report.table(self.evaluation))

    def to_json(self) -> dict[str, Any]:
        """The results, ready for JSON: shares of 1."""
        return report.to_json(self.evaluation)


def evaluate(
    dataset: str | os.PathLike,
    index: str | os.PathLike,
    model: ModelLike = None,
    *,
    images: str | os.PathLike | None = None,
    pipelines: str = "global,verification",
    partial: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Scores:
    """Scores of a model on a dataset with ground truth.

    InputError if photos are missing or damaged.

    Args:
      dataset: a ground truth in the form of Revisited Oxford and Paris (.mat, .pkl,
        .json), a folder of Oxford5k's text files, or a folder of a folder a landmark.
      index: the folder that features are kept in.
      model: a model, its folder, or None for the bundled one.
      images: the folder of the photos of a ground truth; else jpg or images beside it.
      pipelines: rankings to compare, such as "global,alpha_qe+verification".
      partial: score the others where photos are missing.
      settings: as of `delf_jax.extract`.
    """
    model = model_of(index, model)
    return Scores(
        evaluation.evaluate(
            datasets.read_dataset(dataset, images),
            index,
            model,
            settings_for(model, **settings),
            parse_pipelines(pipelines),
            verification=verification_settings(model=model),
            partial=partial,
            progress=progress,
        )
    )
