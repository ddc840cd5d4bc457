"""The README and the pages of docs/, and what the code in them says."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
COMMAND = "python main.py "


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks of a page that are marked as a language, or as none."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def spans(text: str) -> list[str]:
    """The code within the lines of a page."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    """The calls of main.py, in their order; those within lines if they are whole."""
    lines = "".join(blocks(text)).replace("\\\n", " ").splitlines()
    found = [line for line in lines if line.startswith(COMMAND)]
    whole = (span for span in spans(text) if "..." not in span)
    return found + [span for span in whole if re.match(COMMAND + "[a-z]", span)]
