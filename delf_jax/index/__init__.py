"""Indexes: what makes a store searchable, and what is fitted for that.

Start with `photo_index.py`, the index of a folder, and `photo_places.py`, where its
photos are. Then `global_index.py`, `global_search.py` and `device_chunks.py`, global
descriptors on disk, searched, on devices; `codebook.py`, `aggregation.py` and
`aggregated_files.py`, visual words; `inverted_file.py`, `inverted_builder.py`,
`inverted_shards.py`, ASMK's; `fit_codebook.py`, `fit_projection.py`,
`positive_pairs.py`; `neighbour_graph.py`. `vectors/` has tables of other engines.
"""
