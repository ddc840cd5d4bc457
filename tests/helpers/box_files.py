"""Files of boxes, as a CSV and as DELF writes them."""

import numpy as np

from delf_jax.formats.delf.boxes import write_boxes

HEADER = "image,y_min,x_min,y_max,x_max"


def write_table(tmp_path, *rows, header=HEADER):
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_file(folder, name, rows, scores):
    path = folder / f"{name}.boxes"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.array(rows, np.float32).reshape(-1, 4)
    write_boxes(path, rows, np.float32(scores), np.ones(len(rows)))
    return path
