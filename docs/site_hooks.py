"""MkDocs hooks: equations become MathML while the site is built, so that no page needs a script from the network."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
DISPLAYED = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<![\\$`\w])\$([^$\n`]+?)\$(?![\w$`])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace ``$$`` blocks and ``$…$`` outside of code blocks with MathML.

    Args:
        markdown: source of a page.

    Returns:
        The same page, its equations as MathML.
    """
    parts: list[str] = []
    position = 0
    for fence in FENCE.finditer(markdown):
        parts += [_with_mathml(markdown[position : fence.start()]), fence.group()]
        position = fence.end()
    return "".join([*parts, _with_mathml(markdown[position:])])


def _with_mathml(text: str) -> str:
    text = DISPLAYED.sub(lambda match: f'<div class="equation">{convert(match[1], display="block")}</div>', text)
    # In a span, so that Markdown takes no line that begins with an equation for a block of HTML.
    return INLINE.sub(lambda match: f'<span class="equation">{convert(match[1])}</span>', text)
