"""What mkdocs does to each page of the site: code wraps where it reads well."""

import re

_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)
_OPTION = re.compile(r"(?<=[ \n>])(--?\w+)([^\s<]*)")
# Not before the suffix of a file.
_JOINT = re.compile(
    r"(?<=\w/)(?=\w)|(?<=\w\w\w_)(?=\w\w\w)|(?<=\w\.)(?<!delf_jax\.)(?=\w{6})"
)


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
