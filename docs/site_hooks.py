"""What mkdocs does to each page: links out of docs/ hold, code wraps at its joints."""

import posixpath
import re
from typing import Any

# Where the files are that the site has not.
SOURCE = "https://github.com/delf-jax/delf_jax/blob/main/"
_UPWARDS = re.compile(r"(?<=\]\()\.\./[^)\s#]+")

_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_OPTION = re.compile(r"(?<=[ \n>])(--?\w+)([^\s<]*)")
# Not before the suffix of a file.
_JOINT = re.compile(
    r"(?<=\w/)(?=\w)|(?<=\w\w\w_)(?=\w\w\w)|(?<=\w\.)(?<!delf_jax\.)(?=\w{6})"
)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """The page, whose links to files outside of docs/ lead to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[0]))
        return SOURCE + path[3:] if path.startswith("../") else link[0]

    return _UPWARDS.sub(lead, markdown)


def on_page_content(html: str, **_: object) -> str:
    """The page, where options stay in one piece, and long names break at their joints.

    No line ends between the dashes of an option and its name.
    """
    return _CODE.sub(_wrap, html)


def _wrap(code: re.Match[str]) -> str:
    text = code[0]
    if "<" not in code[1]:  # Code within a line; blocks have tags for each line.
        text = f"<code>{_JOINT.sub('<wbr>', code[1])}</code>"
    option = r'<span class="option"><span class="dashed">\1</span>\2</span>'
    return _OPTION.sub(option, text)
