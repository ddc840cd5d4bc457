"""Files of the original: features, boxes, configs, codebooks.

Start with `features.py`, .delf and .delg_local files. Then `datum.py`, arrays, and of
aggregated descriptors pairs of them; `boxes.py`; `pbtxt.py`, texts of its configs;
`codebook.py`; `index_mapping.py`, from regions to images. `messages.py` has the bytes
of protobuf messages that are written by hand, for speed.
"""
