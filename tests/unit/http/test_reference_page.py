"""The page made from the document: whole, closed in itself, readable, and deaf to what it quotes."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from cerememory.http.described_services import SERVICES, Service
from cerememory.http.openapi import document
from cerememory.http.reference_page import CSS, POLICY, page
from cerememory.protocol.operations import OPERATIONS, Operation

ROWS: list[Service | Operation] = [*SERVICES, *OPERATIONS]
ROUTES = [(row.method, row.path) for row in ROWS]
DOCUMENT = document(ROUTES)
VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "</code></p><script>alert(1)</script><img src=x onerror=alert(2)> \"'& `</style><b>`"


@dataclass
class Element:
    name: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def all(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.all()

    def named(self, *names: str) -> list[Element]:
        return [element for element in self.all() if element.name in names]

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Tree(HTMLParser):
    """Strict where browsers are lenient: every element is closed by its own end tag."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def tree(html: bytes) -> Element:
    parser = _Tree()
    parser.feed(html.decode())
    parser.close()
    [root] = parser.open
    return root


PAGE = tree(page(DOCUMENT))


def test_it_is_one_document_in_one_language() -> None:
    assert page(DOCUMENT).startswith(b'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    assert [len(PAGE.named(name)) for name in ("html", "head", "body", "main", "nav", "h1", "title")] == [1] * 7


def test_the_same_document_makes_the_same_page() -> None:
    assert page(document(ROUTES)) == page(DOCUMENT)


def test_it_asks_for_nothing_from_outside() -> None:
    assert PAGE.named("script", "link", "img", "iframe", "object", "embed", "form", "base", "svg") == []
    for element in PAGE.all():
        assert not element.attributes.keys() & {"src", "srcset", "style", "action", "ping"}, element
        assert not [name for name in element.attributes if name.startswith("on")], element
        assert (element.attributes.get("href") or "#").startswith("#"), element
    assert "url(" not in CSS
    assert "@import" not in CSS


def test_its_policy_allows_its_own_style_and_nothing_else() -> None:
    [style] = PAGE.named("style")
    digest = base64.b64encode(sha256(style.text.encode()).digest()).decode()
    assert POLICY.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]


def test_every_id_is_there_once_and_every_link_leads_to_one() -> None:
    ids = [element.attributes["id"] for element in PAGE.all() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    links = {element.attributes["href"] for element in PAGE.named("a")}
    assert {str(link)[1:] for link in links} <= set(ids)
    described = {element.attributes.get("aria-labelledby") for element in PAGE.named("section")}
    assert described <= set(ids)


def test_no_heading_skips_a_level_and_none_is_empty() -> None:
    headings = PAGE.named("h1", "h2", "h3", "h4", "h5", "h6")
    levels = [int(heading.name[1]) for heading in headings]
    assert levels[0] == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))
    assert all(heading.text.strip() for heading in headings)


def test_what_scrolls_sideways_can_be_reached_by_the_keyboard() -> None:
    assert {element.attributes.get("tabindex") for element in PAGE.named("pre")} == {"0"}
    first = next(element for element in PAGE.named("body")[0].all() if element.name == "a")
    assert first.attributes["href"] == "#reference"


def test_it_fits_a_phone_and_a_dark_room() -> None:
    [viewport] = [m for m in PAGE.named("meta") if m.attributes.get("name") == "viewport"]
    assert viewport.attributes["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in CSS
    assert "overflow-x: auto" in CSS
    assert re.findall(r"[^-]width: *\d+(?:px|rem)", CSS) == []


def _luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_its_colours_have_the_contrast_that_reading_needs(scheme: int) -> None:
    colours = dict(re.findall(r"--(\w+): #(\w+)", CSS.split("@media")[scheme]))
    for text in ("text", "faint", "link"):
        for back in ("back", "block"):
            dark, light = sorted((_luminance(colours[text]), _luminance(colours[back])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, back)


def section(identity: str) -> Element:
    [found] = [s for s in PAGE.named("section") if s.attributes["aria-labelledby"] == identity]
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_operation_is_shown_whole(row: Service | Operation) -> None:
    shown = section(row.name.replace(".", "_"))
    operation = DOCUMENT["paths"][row.path][row.method.lower()]
    assert shown.named("h3")[0].text == f"{row.method} {row.path}"
    assert row.summary in shown.text
    assert "curl -sS" in shown.named("pre")[0].text
    codes = {element.text for element in shown.named("dt", "strong")}
    assert operation["responses"].keys() <= codes
    assert {"X-Request-Id"} <= {code.text for code in shown.named("code")}
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    assert ("$ref" in schema or not schema) == (row.name != "mcp")  # whose messages have no schema of ours
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        assert f"#schema-{name}" in {link.attributes["href"] for link in shown.named("a")}


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_a_schema_is_shown_with_its_fields_and_what_they_mean(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    shown = section(f"schema-{name}")
    plain = shown.text
    assert schema.get("description", "").replace("`", "") in plain
    for field_name, part in schema.get("properties", {}).items():
        assert field_name in {code.text for code in shown.named("code")}
        assert part.get("description", "").replace("`", "") in plain
    for value in schema.get("enum", ()):
        assert f'"{value}"' in plain


def test_what_narrows_a_field_is_said() -> None:
    terms = {t.named("code")[0].text: t.text for t in section("schema-RecallAssociate").named("dt")}
    assert terms["depth"] == "depth integer, at least 0, at most 8, default 2"
    assert terms["association_types"] == "association_types array of AssociationType or null"
    [blocks] = [t.text for t in section("schema-ContentInput").named("dt") if t.text.startswith("blocks")]
    assert blocks == "blocks array of BlockInput, required, at least 1 items, at most 1024 items"


def test_hostile_text_is_only_text() -> None:
    hostile = copy.deepcopy(DOCUMENT)
    hostile["info"] |= {"title": HOSTILE, "description": HOSTILE}
    hostile["tags"][0]["description"] = HOSTILE
    encode = hostile["paths"]["/v1/encode"]["post"]
    encode |= {"summary": HOSTILE, "description": HOSTILE}
    encode["requestBody"]["content"]["application/json"]["example"] = {HOSTILE: HOSTILE}
    encode["responses"]["418"] = {"description": HOSTILE, "content": {HOSTILE: {"schema": {"const": HOSTILE}}}}
    encode["parameters"].append(
        {"name": HOSTILE, "in": HOSTILE, "description": HOSTILE, "schema": {"type": HOSTILE}}
    )
    hostile["components"]["schemas"]["Encoded"] = {
        "description": HOSTILE,
        "properties": {HOSTILE: {"enum": [HOSTILE], "default": HOSTILE, "pattern": HOSTILE, "format": HOSTILE}},
        "required": [HOSTILE],
    }
    hostile["paths"][f"/v1/{HOSTILE}"] = {
        "get": {"operationId": HOSTILE, "tags": ["encode"], "summary": HOSTILE, "responses": {}}
    }
    made = tree(page(hostile))
    assert made.named("script", "img", "b") == []
    assert len(made.named("style")) == 1
    assert not [name for element in made.all() for name in element.attributes if name.startswith("on")]
    assert made.text.count("<script>alert(1)</script>") >= 15
