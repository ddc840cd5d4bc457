"""Losses: descriptors or logits in, one value for each example out.

Start with `classification.py`, softmax, ArcFace and CosFace. Then `reconstruction.py`,
DELG's autoencoder; `tuplets.py` and `mining.py`, contrastive and triplet losses;
`correspondence.py`, of local descriptors of two views; `distillation.py`, of a teacher;
`detection.py`, of anchors and their boxes.
Means are taken by the training step, not here.
"""
