"""A parser that checks our HTML pages."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest; keeps attributes by tag, and text by the tag around it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts, self.doctype = [], {}, {}, None
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_decl(self, declaration):
        self.doctype = declaration

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.attributes.setdefault(tag, []).append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)

    def assert_self_contained(self):
        assert self.doctype == "DOCTYPE html" and self.attributes["html"] == [{"lang": "en"}]
        assert not {"script", "link", "iframe", "object", "form"} & set(self.attributes)
        for tag, occurrences in self.attributes.items():
            for attributes in occurrences:
                assert not any(name.startswith("on") for name in attributes), (tag, attributes)
                assert not any(re.match(r"(https?:)?//", value or "") for value in attributes.values())
        assert all(image["src"].startswith("data:image/") and image["alt"] for image in self.attributes["img"])
        (style,) = self.texts["style"]
        assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
