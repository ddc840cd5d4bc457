"""What was found for one image: a list, a table, and pictures in a notebook."""

import html
from collections.abc import Callable, Iterable

from delf_jax.progress import printable
from delf_jax.report.html import Thumbnail
from delf_jax.search.query import Result
from delf_jax.search.verdict import Verdict

# More pictures than these make a notebook slow to open.
_MOST_PICTURES = 30


class SearchResults(list[Result]):
    """Results, best first. Prints as a table; a notebook shows the images."""

    def __init__(
        self,
        image: str,
        results: Iterable[Result],
        picture: Callable[[str | None], Thumbnail | None],
        verdict: Verdict,
        notes: Iterable[str] = (),
    ):
        """The results of a query.

        Args:
          picture: of a result by its id, and of the query by None.
          notes: sentences on what was searched.
        """
        super().__init__(results)
        self.notes = [note for note in notes if note]
        self.image = image
        self.verdict = verdict
        self._picture = picture

    @property
    def confident(self) -> bool | None:
        """Whether one of them is verified beyond chance; None: nothing was verified."""
        return self.verdict.confident

    def __repr__(self) -> str:
        names = [printable(result.image) for result in self]
        width = max(map(len, ["image", *names]))
        lines = [
            f"{printable(self.image)}: {self.verdict}".rstrip(),
            f"rank  {'image':{width}}  similarity  inliers",
        ]
        for place, (_, similarity, inliers, _) in enumerate(self, 1):
            count = "-" if inliers is None else inliers
            image = names[place - 1]
            lines.append(f"{place:4}  {image:{width}}  {similarity:10.3f}  {count:>7}")
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        figures = [_figure(self._picture(None), "query", self.image)]
        shown = enumerate(self[:_MOST_PICTURES], 1)
        for place, (image, similarity, inliers, _) in shown:
            facts = f"{place}: similarity {similarity:.3f}"
            facts += "" if inliers is None else f", {inliers} inliers"
            figures.append(_figure(self._picture(image), facts, image))
        style = "display:flex;flex-wrap:wrap;gap:12px;align-items:end"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        doubt = html.escape(str(self.verdict))
        doubt = f"<p><b>{doubt}</b></p>" if doubt else ""
        return f'{doubt}<div style="{style}">{"".join(figures)}</div>{notes}'


def _figure(picture: Thumbnail | None, facts: str, name: str) -> str:
    shown = "<i>not found</i>"
    if picture is not None:
        shown = f'<img src="{picture.source}" alt="">'
    name = html.escape(printable(name))
    return (
        f'<figure style="margin:0;max-width:160px">{shown}<figcaption><b>{facts}</b>'
        f'<br><span style="overflow-wrap:anywhere">{name}</span>'
        "</figcaption></figure>"
    )
