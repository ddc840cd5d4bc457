"""Google Landmarks v2: retrieval and recognition among millions of images.

Start with `predict.py`: features, a task, a CSV as the challenge wants it. Then
`collection.py`, the images of a part; `retrieval_task.py` and `recognition_task.py`;
`scores.py`, predictions against a solution, with intervals; `report.py`, the table.
Memory is bounded whatever the number of images.
"""
