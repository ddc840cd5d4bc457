"""Clusters: bulk work dealt out to workers of Ray, which may die.

Start with `jobs.py`: a job of shares on a cluster, which starts here or is joined. Then
`shares.py`: how shares are dealt out and tried again, whatever the workers are; and
`buckets.py`: photos and results that lie on no disk, for commands as well. What is done
with a share is told by those who have the work: `store/extraction.py`, `index/`,
`detection/results.py` and `data/`.
"""
