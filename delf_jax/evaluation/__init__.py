"""Evaluation: a ground truth, ranked and scored.

Start with `evaluation.py`. Then `datasets.py`, ground truths and protocols;
`queries.py`, their crops; `distractors.py`; `overlap.py`, queries whose landmarks were
trained on; `ranking.py`, all photos ranked under each protocol, junk left out;
`report.py`, `page.py` and `failures.py`, what was found and why not; `reproduce.py` and
`experiment.py`, experiments of papers; `calibration.py`, what evidence is worth.
`one_call.py` is `delf_jax.evaluate`.
"""
