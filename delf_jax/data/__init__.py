"""Data: labelled images to train on.

Start with `loader.py`: resumable batches. Then `image_lists.py`, labelled images in
folders, CSVs and records; `prepare.py`, them stored shrunk; `tfrecords.py`, them as the
original's files; `tuples.py`, pairs and negatives; `augment.py`, crops, warps and
colours; `teacher.py`, features to distil; `download.py` and the two catalogues,
datasets and models of others. Plain values come in, no configs.
"""
