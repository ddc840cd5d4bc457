"""Drawn landmarks, with exact correspondences: for the demo, tests and training.

Start with `landmarks.py`: draw a landmark, draw a view of it; `correspondence.py` maps
points between views, and `village.py` drew the photos of the demo. Then `canvas.py`,
`surfaces.py` and `rendering.py`, how anything is drawn; `buildings.py` and
`monuments.py` with their `facades.py`, `ornaments.py` and `emblems.py`; `scenery.py`
and `conditions.py`, what stands around, and light and weather.
"""
