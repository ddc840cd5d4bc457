"""Ground truths and lists of published datasets.

Start with `revisited.py`, Revisited Oxford and Paris, and `revisited_metrics.py`, the
metrics.txt of the original. Then `oxford.py`, the text files of Oxford5k and Paris6k;
`sfm120k.py`, pairs to train on; `gldv2.py`, the tables of Google Landmarks v1 and v2.
Paths inside are as the files say; nothing here opens an image.
"""
