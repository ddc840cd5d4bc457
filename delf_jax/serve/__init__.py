"""A search page and a JSON API over an index.

Start with `server.py`: the routes, and how they are served. Then `engine.py`, an index
that is searched and added to, and `worker.py`, the one thread that does so, with its
queue; `photos.py`, the files of the index's photos; `guard.py`, what is refused before
any work: strangers, large bodies, too many requests; `metrics.py`, what is counted. The
page is filled from the templates of report/, with the cards of search/page.py.
"""
