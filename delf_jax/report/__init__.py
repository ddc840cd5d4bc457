"""Reports: figures, curves and pages.

Start with `figures.py`: the matches of two photos drawn. Then `boxes.py`, boxes drawn
into a photo, `curves.py`, the metrics of trainings over their steps, `runs.py`, those
of a sweep as data, `html.py`, pages of one file with photos inside, and `inline.py`,
figures that a notebook shows.
`templates/` has the pages that search and evaluation fill in. What is drawn comes in as
arrays and numbers.
"""
