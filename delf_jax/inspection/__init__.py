"""Inspection: what a file or folder holds, in words and tables.

Start with `describe.py`: any path in, lines of text out. `model_files.py` knows our own
model folders and trainings; files of others are read by the readers of conversion and
formats; `dataset_files.py` describes ground truths, results and lists of datasets.
Nothing is changed.
"""
