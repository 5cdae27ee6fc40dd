"""Elements of an HTML page as text; whatever is not an element itself is escaped."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | float | None
"""`Markup` stays as it is, other text is escaped, None is nothing."""

_VOID = ("meta", "img", "br", "rect", "line", "polyline", "circle")
"""Elements that have no content."""


def element(name: str, /, *content: Content, **attributes: Content) -> Markup:
    """An element, such as `element("a", "text", href="#x")`.

    Args:
        name: of the element.
        content: one after the other.
        attributes: None leaves one out; `class_` is `class`, `stroke_width` is `stroke-width`.
    """
    pairs = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = name + "".join(f' {key}="{escape(str(value))}"' for key, value in pairs.items())
    return Markup(f"<{opening}/>" if name in _VOID else f"<{opening}>{joined(*content)}</{name}>")


def joined(*content: Content) -> Markup:
    """Pieces one after the other."""
    return Markup(
        "".join(part if isinstance(part, Markup) else escape(str(part)) for part in content if part is not None)
    )
