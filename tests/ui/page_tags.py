"""A panel's HTML, taken apart."""

from __future__ import annotations

from html.parser import HTMLParser

EVIL = "<img src=x onerror=alert(1)>\"'&"
ALLOWED = {
    "a", "b", "button", "code", "details", "div", "em", "h2", "i", "img", "li", "p", "span", "strong", "summary",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
"""The tags that panels are made of."""


class Tags(HTMLParser):
    """Collects tags, attributes and text, and fails on badly nested ones and on any that runs a script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED and not [name for name, _ in attrs if name.startswith("on")], (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]
