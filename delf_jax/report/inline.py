"""A figure that a notebook shows; apart, for matplotlib is slow to import."""

import io

from matplotlib.figure import Figure

# 7 inches wide, it fills the column of a notebook.
_DPI = 120
_QUALITY = 75


class InlineFigure(Figure):
    """matplotlib's Figure, shown by IPython without pyplot."""

    def _repr_jpeg_(self) -> bytes:
        """A fifth of the bytes that photos take as PNG: notebooks stay small."""
        buffer = io.BytesIO()
        quality = {"quality": _QUALITY}
        self.savefig(buffer, format="jpeg", dpi=_DPI, pil_kwargs=quality)
        return buffer.getvalue()
