"""A figure that a notebook shows; apart, for matplotlib is slow to import."""

import io

from matplotlib.figure import Figure

# 7 inches wide, it fills the column of a notebook.
_DPI = 120


class InlineFigure(Figure):
    """matplotlib's Figure, shown by IPython without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()
