"""Detectors of landmarks: networks that give boxes, and no features.

Start with `ssd.py`, one pass over maps of six sizes; then `faster_rcnn.py`, which looks
twice. `anchors.py` is what both know of boxes: overlaps, coding, matching, suppression.
"""
