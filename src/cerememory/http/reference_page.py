"""The reference for people: the OpenAPI document as one HTML page, without a script or anything from outside.

What the document says is text until `_tag` has escaped it; only what `_tag` made is `Html`. Joining two of them
with `+` gives plain text, which is escaped again: a mistake here shows on the page, and lets nothing through.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html import escape
from http import HTTPStatus
from itertools import groupby
from typing import Any

from cerememory.http.examples import EXAMPLE_BATCH_ID, EXAMPLE_ID

Node = dict[str, Any]

CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --faint: #57606a; --back: #fff; --block: #f3f5f7;
  --line: #d0d7de; --link: #0a57a4; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --faint: #a3adb8; --back: #14171a;
  --block: #1e2226; --line: #3a4149; --link: #86bdff; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
main, nav { max-width: 52rem; margin: 0 auto; overflow-wrap: break-word; }
a { color: var(--link); }
nav ul { list-style: none; margin: 0 0 .75rem; padding: 0; }
nav li { display: inline-block; margin: .2rem 1rem .2rem 0; }
.skip { position: absolute; left: -100rem; }
.skip:focus { position: fixed; top: 0; left: 0; padding: .5rem; background: var(--back); }
h1 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 2.5rem 0 .5rem; }
h4 { margin: 1.25rem 0 .25rem; }
h3 a { color: inherit; text-decoration: none; }
h3 a:hover, h3 a:focus { text-decoration: underline; }
code, pre { font: .9em/1.5 ui-monospace, monospace; }
code { background: var(--block); padding: .1em .25em; border-radius: .25em; }
pre { background: var(--block); border: 1px solid var(--line); border-radius: .4rem; padding: .75rem;
  overflow-x: auto; }
pre code { background: none; padding: 0; font: inherit; }
p { margin: .5rem 0; }
dl { margin: 0; }
dt { margin-top: .6rem; }
dd { margin: 0 0 0 1.25rem; }
dd p { margin: .15rem 0; }
.faint { color: var(--faint); }
summary { cursor: pointer; margin-top: 1.25rem; font-weight: bold; }
@media (min-width: 75rem) {
  body { display: grid; grid-template-columns: 15rem minmax(0, 52rem); gap: 3rem; justify-content: center; }
  main, nav { margin: 0; }
  nav { position: sticky; top: 1rem; align-self: start; max-height: calc(100vh - 2rem); overflow-y: auto; }
  nav li { display: block; }
}
"""
_CSS_HASH = base64.b64encode(sha256(CSS.encode()).digest()).decode()
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{_CSS_HASH}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
ABOUT_EXAMPLES = """\
Each is a command for a shell that knows where the daemon is, a key (none while `auth.enabled` is off), the id of
a memory of yours, such as the answer to `encode_store` has, and that of an import, as `archive_import` answers:"""
SHELL = f"""\
URL=http://127.0.0.1:8420
KEY=
RECORD_ID={EXAMPLE_ID}
BATCH_ID={EXAMPLE_BATCH_ID}"""


class Html(str):
    """Markup that `_tag` made."""

    __slots__ = ()


def page(document: Node) -> bytes:
    """The page for an OpenAPI document of ours, UTF-8."""
    return b"<!DOCTYPE html>\n" + _Page(document).html().encode()


def _tag(name: str, *children: str, **attributes: str) -> Html:
    """An element; `class_` and the like stand for attributes that are Python's words, `_` for `-`."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{shown}>{_joined(children)}</{name}>")


def _joined(children: Iterable[str]) -> Html:
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def _prose(text: str) -> Html:
    """Paragraphs, with code between backticks."""
    return _joined(_tag("p", *_inline(part)) for part in text.split("\n\n"))


def _inline(text: str) -> Iterator[str]:
    for i, part in enumerate(text.split("`")):
        yield _tag("code", part) if i % 2 else part


def _code(value: object) -> Html:
    return _tag("code", json.dumps(value, ensure_ascii=False))


_ERROR_BODY = _tag("p", "Each has an ", _tag("a", "ErrorBody", href="#schema-ErrorBody"), ".")


class _Page:
    def __init__(self, document: Node) -> None:
        self._document = document
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]

    def html(self) -> Html:
        title = f"{self._document['info']['title']} {self._document['info']['version']}: HTTP reference"
        head = _tag(
            "head",
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            _tag("title", title),
            _tag("style", Html(CSS)),
        )
        body = _tag(
            "body",
            _tag("a", "Skip to the reference", class_="skip", href="#reference"),
            self._contents(),
            _tag("main", *self._main(title), id="reference"),
        )
        return _tag("html", head, body, lang="en")

    def _by_tag(self) -> Iterator[tuple[Node, list[tuple[str, str, Node]]]]:
        """The tags that have operations, in the document's order."""
        for tag in self._document["tags"]:
            found = [row for row in self._operations if tag["name"] in row[2]["tags"]]
            if found:
                yield tag, found

    def _contents(self) -> Html:
        parts: list[Html] = []
        for tag, operations in self._by_tag():
            links = (
                _tag("li", _tag("a", operation["operationId"], href=f"#{operation['operationId']}"))
                for _, _, operation in operations
            )
            parts += [_tag("a", tag["name"], href=f"#tag-{tag['name']}"), _tag("ul", *links)]
        parts.append(_tag("a", "Schemas", href="#schemas"))
        return _tag("nav", *parts, aria_label="Contents")

    def _main(self, title: str) -> Iterator[Html]:
        yield _tag("h1", title)
        yield _prose(self._document["info"]["description"])
        yield _tag("h2", "Examples")
        yield _prose(ABOUT_EXAMPLES)
        yield _tag("pre", _tag("code", SHELL), tabindex="0")
        for tag, operations in self._by_tag():
            yield _tag("h2", tag["name"], id=f"tag-{tag['name']}")
            yield _prose(tag["description"])
            yield from (self._operation(*row) for row in operations)
        yield _tag("h2", "Schemas", id="schemas")
        yield from (self._schema(*row) for row in self._document["components"]["schemas"].items())

    def _operation(self, method: str, path: str, operation: Node) -> Html:
        name = operation["operationId"]
        heading = _tag("h3", _tag("a", f"{method} ", _tag("code", path), href=f"#{name}"), id=name)
        parts = [heading, _prose(operation["summary"])]
        if "description" in operation:
            parts.append(_prose(operation["description"]))
        parts += [
            _tag("h4", "Example"),
            _tag("pre", _tag("code", self._curl(method, path, operation)), tabindex="0"),
        ]
        if "requestBody" in operation:
            parts += [_tag("h4", "Body"), *self._content(operation["requestBody"]["content"])]
        if "parameters" in operation:
            parts += [_tag("h4", "Parameters"), _tag("dl", *map(self._parameter, operation["parameters"]))]
        parts.append(_tag("h4", "Answers"))
        for is_error, answers in groupby(operation["responses"].items(), key=lambda row: row[0] >= "4"):
            rows = _tag("dl", *(self._answer(status, answer) for status, answer in answers))
            parts.append(_tag("details", _tag("summary", "Errors"), _ERROR_BODY, rows) if is_error else rows)
        return _tag("section", *parts, aria_labelledby=name)

    def _parameter(self, parameter: Node) -> Html:
        parameter = self._resolved(parameter)
        term = _tag("code", parameter["name"])
        place = f"in the {parameter['in']}"
        return _described(
            term, parameter["schema"], parameter.get("description"), place, parameter.get("required")
        )

    def _answer(self, status: str, answer: Node) -> Html:
        is_shared = "$ref" in answer  # then it is one of the errors, which all have the same body
        answer = self._resolved(answer)
        phrase = HTTPStatus(int(status)).phrase if status.isdigit() else ""
        parts = [_prose(answer["description"]), *([] if is_shared else self._content(answer.get("content", {})))]
        if others := [name for name in answer.get("headers", {}) if name != "X-Request-Id"]:
            parts.append(_tag("p", "With ", *_listed(_tag("code", name) for name in others), "."))
        return _joined([_tag("dt", _tag("strong", status), f" {phrase}"), _tag("dd", *parts)])

    def _content(self, content: Node) -> Iterator[Html]:
        for media, described in content.items():
            yield _tag("p", _tag("code", media), ": ", *_type(described["schema"]))
            yield from _properties(described["schema"])

    def _schema(self, name: str, schema: Node) -> Html:
        identity = f"schema-{name}"
        parts = [_tag("h3", _tag("a", name, href=f"#{identity}"), id=identity)]
        if "description" in schema:
            parts.append(_prose(schema["description"]))
        if "properties" not in schema:
            parts.append(_tag("p", *_listed([_joined(_type(schema)), *_facts(schema)])))
        return _tag("section", *parts, *_properties(schema), aria_labelledby=identity)

    def _resolved(self, node: Node) -> Node:
        """What `node` refers to, or itself."""
        found: Any = node
        while "$ref" in found:
            steps = found["$ref"].removeprefix("#/").split("/")
            found = self._document
            for step in steps:
                found = found[step]
        return found  # type: ignore[no-any-return]

    def _curl(self, method: str, path: str, operation: Node) -> str:
        """A shell command; ids of records are `$RECORD_ID`, so a body stands in a document that expands it."""
        parts = ["curl -sS" + (f" -X {method}" if method not in ("GET", "POST") else "")]
        query = "&".join(f"{p['name']}={p['example']}" for p in operation.get("parameters", ()) if "example" in p)
        target = path.replace("{record_id}", "$RECORD_ID") + (f"?{query}" if query else "")
        parts[0] += f' "$URL{target}"'
        if operation.get("security") != []:
            parts.append('-H "Authorization: Bearer $KEY"')
        if "x-answer-file" in operation:
            parts.append(f"-o {operation['x-answer-file']}")
        if "requestBody" not in operation:
            return " \\\n  ".join(parts)
        [(media, content)] = operation["requestBody"]["content"].items()
        parts.append(f"-H 'Content-Type: {media}'")
        if "x-request-file" in operation:
            return " \\\n  ".join([*parts, f"--data-binary @{operation['x-request-file']}"])
        body = json.dumps(content.get("example", {}), ensure_ascii=False, indent=2)
        for special in "\\$`":
            body = body.replace(special, "\\" + special)
        body = body.replace(EXAMPLE_ID, "$RECORD_ID").replace(EXAMPLE_BATCH_ID, "$BATCH_ID")
        return " \\\n  ".join([*parts, f"-d @- <<END\n{body}\nEND"])


def _properties(schema: Node) -> Iterator[Html]:
    """The list of an object's properties, unless the schema is only a reference to one."""
    required = schema.get("required", ())
    rows = [
        _described(_tag("code", name), found, found.get("description"), "", name in required)
        for name, found in schema.get("properties", {}).items()
    ]
    if rows:
        yield _tag("dl", *rows)


def _described(term: Html, schema: Node, described: str | None, place: str, required: object) -> Html:
    facts = [
        _joined(_type(schema)),
        *([place] if place else []),
        *(["required"] if required else []),
        *_facts(schema),
    ]
    told = [_prose(described)] if described else []
    nested = _properties(schema)
    return _joined(
        [_tag("dt", term, " ", _tag("span", *_listed(facts), class_="faint")), _tag("dd", *told, *nested)]
    )


def _listed(parts: Iterable[str], between: str = ", ") -> Iterator[str]:
    for i, part in enumerate(parts):
        if i:
            yield between
        yield part


def _type(schema: Node) -> Iterator[str]:
    """The type in words, named ones as links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield _tag("a", name, href=f"#schema-{name}")
    elif "const" in schema:
        yield _code(schema["const"])
    elif "anyOf" in schema and "properties" not in schema:
        yield from _listed((_joined(_type(part)) for part in schema["anyOf"]), " or ")
    elif "allOf" in schema:
        yield from _type(schema["allOf"][0])
    elif schema.get("type") == "array":
        yield from ("array of ", *_type(schema["items"]))
    else:
        yield schema.get("type", "any JSON")


_BOUNDS = {
    "format": "{}",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "contentEncoding": "{}",
}


def _facts(schema: Node) -> Iterator[str]:
    """What narrows a type, in words."""
    for key, words in _BOUNDS.items():
        if key in schema:
            yield words.format(schema[key])
    if "enum" in schema:
        yield _joined(("one of ", *_listed(_code(value) for value in schema["enum"])))
    if "pattern" in schema and "format" not in schema:
        yield _joined(("matching ", _tag("code", schema["pattern"])))
    if "default" in schema:
        yield _joined(("default ", _code(schema["default"])))
