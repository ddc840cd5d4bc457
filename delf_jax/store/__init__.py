"""Stores: features of many images on disk.

Start with `feature_store.py`: a folder that is filled, read and brought up to date.
Then `writer.py`, its manifest, and shards gathered, merged and cleared away;
`shards.py`, one file of many images, and `shard_checks.py`, whether it is sound;
`local_descriptors.py`, all of them in chunks or by number; `delf_files.py`, a store as
the original's files, and back; `interchange.py`, as files of hloc, numpy and COLMAP;
`memory.py`, a store that is in memory alone.
"""
