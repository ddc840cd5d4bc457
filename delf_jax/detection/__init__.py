"""Landmark detection: boxes of what is worth searching for, as [D2R] finds them.

Start with `detect.py`, from images to boxes by a trained network, and `one_call.py`,
the same in one call. Then `results.py`, what the command writes of many photos;
`saved_model.py`, the detectors that the original has released; and `targets.py`, what
each anchor of a network is to learn. The networks are those of
models/detectors; extraction/boxes.py reads what is written here.
"""
