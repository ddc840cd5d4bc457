"""Training: a config in, checkpoints and a model folder out.

Start with `train.py`, the loop. Then `step.py`, one pure step, and `objective.py`, its
losses; `build.py` and `inputs.py`, modules and batches from a config; `parallel.py`,
pmap and jit; `sharded_classifier.py`; `checkpoints.py`, `warm_start.py`, `log.py`;
`validation.py`; `mining.py`; `config.py`, whether a config is whole; `sweep.py`, many.
"""
