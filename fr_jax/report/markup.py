"""HTML elements from Python, in which every text is escaped."""

import base64
import html
import re
from collections.abc import Iterable

# Elements without content and end tag.
_VOID = ("img", "meta", "br")


class Html(str):
    """Markup, as opposed to a text, which `element` escapes."""

    __slots__ = ()


def text(value: object, longest: int = 2000) -> Html:
    """Returns a value as markup that shows it, whatever characters it has.

    Control characters, marks of direction and lone surrogates are shown as escapes.

    Args:
      longest: characters; longer texts are shortened.
    """
    if isinstance(value, Html):
        return value
    shown = str(value)
    if len(shown) > longest:
        shown = f"{shown[:longest]} … ({len(shown):,} characters)"
    if not shown.isprintable():
        shown = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode()
            for one in shown
        )
    return Html(html.escape(shown))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Returns an element; what is not `Html` is escaped.

    Args:
      content: texts, markup, numbers.
      attributes: `class_` is the attribute `class`; None and False leave one out, True
        is an attribute without a value.
    """
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{text(value, 1 << 30)}"')
    start = f"<{' '.join(words)}>"
    if tag in _VOID:
        return Html(start)
    return Html(f"{start}{joined(content)}</{tag}>")


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Returns texts and markup one after the other."""
    return Html(between.join(text(part) for part in parts))


def broken(name: object) -> Html:
    """Returns a name that may be broken after its signs, not within words."""
    return Html(re.sub(r"(?<=[_./@=-])(?=[^\W_])", "<wbr>", str(text(name))))


def picture(data: bytes, kind: str, alt: str, **attributes: object) -> Html:
    """Returns an image that the page contains.

    Args:
      kind: of the data: 'png', 'jpeg' or 'svg+xml'.
      alt: its description.
    """
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return element("img", src=source, alt=alt, **attributes)


def table(
    head: Iterable[object], rows: Iterable[Iterable[object]], caption: object = ""
) -> Html:
    """Returns a table that scrolls sideways where it is wider than the page.

    The first cell of each row is its title. A row is a sequence of cells, which are
    texts, markup, or whole `td` and `th` elements.
    """
    top = element("tr", *(_cell(one, "th", scope="col") for one in head))
    body = [
        element(
            "tr",
            *(
                _cell(one, "td" if number else "th", scope=None if number else "row")
                for number, one in enumerate(row)
            ),
        )
        for row in rows
    ]
    parts = [element("caption", caption)] if caption else []
    whole = element("table", *parts, element("thead", top), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0")


def _cell(content: object, tag: str, **attributes: object) -> Html:
    if isinstance(content, Html) and content.startswith(("<td", "<th")):
        return content
    return element(tag, content, **attributes)
