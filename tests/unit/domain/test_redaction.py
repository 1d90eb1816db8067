"""What is a secret goes, whatever is round it; what isn't stays; and no text takes more than linear work."""

from __future__ import annotations

import re
import string
from itertools import pairwise
from re import _parser  # what a pattern's width is, only it says
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cerememory.domain import redaction
from cerememory.domain.redaction import MARK, Findings, is_secret_name, redact, redact_text

KEY_BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabcd/efg+hij=\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fw"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("password=hunter2", "password=[REDACTED]"),
        ("password: correct horse battery", "password: [REDACTED]"),
        ("export DB_PASSWORD=p@ss,w0 rd  # x\nnext", "export DB_PASSWORD=[REDACTED]\nnext"),
        ("  - dbPassword: 'it''s'\n", "  - dbPassword: '[REDACTED]''[REDACTED]'\n"),
        ("my password is hunter2!", "my password is [REDACTED]"),
        ("login joe password hunt3r2 here", "login joe password [REDACTED] here"),
        ("passphrase := `open sesame`", "passphrase := `[REDACTED]`"),
        ("Server=db;Uid=sa;Pwd=abc;", "Server=db;Uid=sa;Pwd=[REDACTED]"),
        ("PGPASSWORD=abc psql -h db", "PGPASSWORD=[REDACTED]"),
        ("$ PGPASSWORD=abc psql -h db", "$ PGPASSWORD=[REDACTED] psql -h db"),
        ("<password>hunter2</password>", "<password>[REDACTED]</password>"),
        ("AWS_SECRET_ACCESS_KEY=wJalr/K7MD", "AWS_SECRET_ACCESS_KEY=[REDACTED]"),
        ("?access_token=abc&x=1 HTTP/1.1", "?access_token=[REDACTED] HTTP/1.1"),
        ("client_secret = 'abc' # why", "client_secret = '[REDACTED]' # why"),
        ("the client secret: abc", "the client secret: [REDACTED]"),
        ("X-Api-Key: abc", "X-Api-Key: [REDACTED]"),
        ("//host/:_authToken=abc", "//host/:_authToken=[REDACTED]"),
        ("_auth = dXNlcg==", "_auth = [REDACTED]"),
        ('{"apiKey": "abc", "n": 1}', '{"apiKey": "[REDACTED]", "n": 1}'),
        ('{"token":12345,"n":1}', '{"token":[REDACTED],"n":1}'),
        ('"passwords": ["a", "b c"], "n": 1', '"passwords": ["[REDACTED]", "[REDACTED]"], "n": 1'),
        ("d['token'] = 'abc'", "d['token'] = '[REDACTED]'"),
        ('"{\\"password\\": \\"a\\\\\\"b\\"}" + x', '"{\\"password\\": \\"[REDACTED]\\"}" + x'),
        ("cmd --token abc --verbose", "cmd --token [REDACTED] --verbose"),
        ("cmd --server-api-key 'a b' -v", "cmd --server-api-key '[REDACTED]' -v"),
        ("curl -u joe:secret9 host", "curl -u joe:[REDACTED] host"),
        ("Authorization: Digest user=a, response=b\nHost: x", "Authorization: [REDACTED]\nHost: x"),
        ('curl -H "Authorization: Token a b" http://x', 'curl -H "Authorization: [REDACTED]" http://x'),
        ('Cookie: sid="abc"; other=secret', "Cookie: [REDACTED]"),
        ("Set-Cookie: a=b; Path=/\\r\\nHost: x", "Set-Cookie: [REDACTED]\\r\\nHost: x"),
        ("sent Bearer abcdef123456 to it", "sent Bearer [REDACTED] to it"),
        ("basic dXNlcjpwYXNz", "basic [REDACTED]"),
        ("postgres://joe:p4:ss@db/x", "postgres://joe:[REDACTED]@db/x"),
        (f"a {KEY_BLOCK} b", "a [REDACTED] b"),
        (f"a\n{KEY_BLOCK[:50]}\n", "a\n[REDACTED]"),
        (KEY_BLOCK.replace("\n", "\\n") + '", "b"', '[REDACTED]", "b"'),
        (KEY_BLOCK.replace("\n", "\n   12→"), MARK),
        ("İpassword=İabc x", "İpassword=[REDACTED]"),
    ],
)
def test_a_secret_goes_and_its_surroundings_stay(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


TOKENS = [
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuv",
    "glpat-abcdefghij0123456789",
    "sk-ant-api03-abcDEF012345_6789-xyz",
    "sk-proj-Ab1-cdefghijklmnopqrstuvwxyz",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdefghijklmnopqrstuv",
    "ya29.a0AfH6SMBx-1234567890abc",
    "xoxb-123456789012-abcdefABCDEF",
    "xapp-1-A0123456789-abcdef",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw",
    "SG.abcdefghijklmnop_qrstuv.wxyzABCDEF0123456789",
    "cm_0123456789ab_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_",
    "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQ",
    "whsec_abcdefghijklmnopqrstuvwxyz",
    JWT,
]


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:10])
@pytest.mark.parametrize("around", ["{}", "see {}.", "'{}'", "x={}&y", "/{}/", "a\n{}\nb", "-{}", "_{}", "é{}é"])
def test_a_token_is_known_by_its_shape(token: str, around: str) -> None:
    assert token not in redact_text(around.format(token))
    assert redact_text(around.format(token)) == around.format(MARK)


@pytest.mark.parametrize(
    "text",
    [
        "the password is stored hashed",
        "a basic understanding of bearer tokens, and basic authentication.",
        "max_tokens: 4096, tokens=12, token_count: 3",
        "def f(token: str, password: str = None) -> None:",
        "PWD=/home/me OLDPWD=/tmp",
        "http://host:8080/path@x and a@b.c",
        "sk-learn-compatible-estimators, risk-assessment-of-something",
        "List<Token> tokens = parse(x)",
        "sorted(rows, key=lambda row: row.author)",
        "The token\nis here; tokenizer = Tokenizer()",
        "public_key: abc, authors: me",
        '{"secret": null, "token": true, "cookies": {"n": 1}}',
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ({"password": "a", "user": "b"}, {"password": MARK, "user": "b"}),
        ({"token": 17, "max_tokens": 17}, {"token": MARK, "max_tokens": 17}),
        ({"secret": None, "apiKey": True}, {"secret": None, "apiKey": True}),
        ({"credentials": {"user": "a", "pins": [1, 2.5]}}, {"credentials": {"user": MARK, "pins": [MARK, MARK]}}),
        ({"type": {"password": {"type": "string"}}}, {"type": {"password": {"type": "string"}}}),
        (["x", {"env": ["A_TOKEN=abc"]}], ["x", {"env": ["A_TOKEN=[REDACTED]"]}]),
        ({TOKENS[0]: 1, TOKENS[6]: 2}, {MARK: 1, f"{MARK} 1": 2}),
        (12, 12),
        (None, None),
    ],
)
def test_json_is_redacted_at_every_depth(value: Any, redacted: Any) -> None:
    assert redact(value) == redacted


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "db_passwd", "userPassword", "passphrase", "my-pwd", "Pwd", "password2"),
        *("client_secret", "clientSecret", "SECRET", "secrets", "api_key", "apiKey", "X-API-Key", "private_key"),
        *("access_token", "id_token", "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "_auth"),
        *("AWS_SECRET_ACCESS_KEY", "credentials", "encryption-key"),
    ],
)
def test_a_telling_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("user", "key", "public_key", "tokens", "max_tokens", "pwd", "author", "auth", "token_type", "keyboard"),
        *("tool_name", "secretary", ""),
    ],
)
def test_a_name_that_tells_nothing(name: str) -> None:
    assert not is_secret_name(name)


# Fragments that the rules look for, so that arbitrary text of them reaches their corners.
FRAGMENTS = st.sampled_from(
    [
        *(
            "password",
            "Pwd",
            "_auth",
            "token",
            "api_key",
            "cookie",
            "Authorization",
            "secret",
            "is",
            "--",
            "export ",
        ),
        *(
            ":",
            "=",
            ":=",
            "=>",
            ">",
            "</",
            " ",
            "\n",
            "\t",
            "\\",
            "\\n",
            '"',
            "'",
            "`",
            '\\"',
            "[",
            "]",
            "{",
            "}",
            ",",
        ),
        *("Bearer ", "basic ", "://", "@", "a", "Z9", "hunter2", "none", MARK, "-----BEGIN PRIVATE KEY-----"),
        *(
            "-----END PRIVATE KEY-----",
            TOKENS[0],
            TOKENS[6],
            JWT,
            "eyJ",
            "sk-",
            "ghp_",
            " -u joe:",
            "é",
            "İ",
            "\u2028",
        ),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=40).map("".join))
SECRETS = st.text(string.ascii_letters + string.digits + "!#$%*+/?^~_-.", min_size=8, max_size=40).filter(
    lambda secret: re.search(r"\d", secret) and re.search("[a-z]", secret)
)


@given(TEXTS)
@example("passwordis----BEGIN PRIVATE KEY----{")  # a mark stands where something else ended the secret
@example("PASSWORD`:0")
def test_what_was_redacted_stays_as_it_is(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@given(JSON)
def test_json_that_was_redacted_stays_as_it_is(value: Any) -> None:
    once = redact(value)
    assert redact(once) == once


@given(
    SECRETS,
    st.sampled_from(
        [
            "password={}",
            "the password is {}",
            'api_key: "{}"',
            "X_TOKEN='{}'",
            "Authorization: Basic {}",
            "Cookie: a={}; b={}",
            '{{"client_secret":"{}"}}',
            '{{\\"client_secret\\":\\"{}\\"}}',
            "run --secret {} x",
            "f(secret={})",
        ]
    ),
    st.text(string.ascii_letters + " ,.\n", max_size=20),
    st.text(" ,.;\n", max_size=5),
)
def test_a_planted_secret_never_survives(secret: str, place: str, before: str, after: str) -> None:
    assume(not (place.startswith("run --") and secret.startswith("-")))  # behind a flag that is the next one
    text = f"{before}\n{place.format(secret, secret)}\n{after}"
    assert secret not in redact_text(text)
    assert secret not in str(redact({"x": [text, {"note": text}]}))


@given(JSON, SECRETS)
def test_nothing_below_a_telling_name_survives(value: Any, secret: str) -> None:
    assert secret not in str(redact({"x": {"credentials": [value, {"deep": secret}]}}))


@given(st.text(string.ascii_letters + string.digits + "+/=\n ", min_size=8), st.booleans())
def test_a_private_key_never_survives(body: str, has_end: bool) -> None:
    kept = f"x -----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n"
    text = kept + ("-----END OPENSSH PRIVATE KEY-----" if has_end else "")
    assert redact_text(text) == "x " + MARK


# Work: an anchor's is bounded by its width at each character, so only runs could be more than linear.
ANCHORS = (
    "_NAMED",
    "_NAME_END",
    "_OPENER",
    "_SCHEME",
    "_IN_URL",
    "_USER_FLAG",
    "_SHAPE",
    "_KEY_BEGIN",
    "_KEY_END",
)
WIDTH_MAX = 300
RUNS_A_CHARACTER = 16


@pytest.mark.parametrize("name", ANCHORS)
def test_an_anchor_has_a_bounded_width(name: str) -> None:
    pattern = getattr(redaction, name).pattern
    assert _parser.parse(pattern).getwidth()[1] < WIDTH_MAX


def test_whatever_isnt_an_anchor_never_backtracks() -> None:
    """One possessive repetition of disjoint classes, or a single look at what was taken."""
    runs = {
        name: value.pattern
        for name, value in vars(redaction).items()
        if isinstance(value, re.Pattern) and name not in (*ANCHORS, "_TELLING")
    }
    runs |= {f"_inside {quote} {n}": redaction._inside(quote, n).pattern for quote in "'\"`" for n in range(4)}
    for name, pattern in runs.items():
        without = re.sub(r"\[(?:\\.|[^\]\\])*\]", "x", pattern)  # in a class they are characters
        assert re.findall(r"(?<!\\)(?:[*+]|\})(?!\+)(?<![*+}]\+)", without) == [], name


def counting_runs(patch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each run takes from now on."""
    taken: list[int] = []
    take = redaction._taken

    def counted(kind: re.Pattern[str], text: str, start: int) -> int:
        end = take(kind, text, start)
        taken.append(end - start)
        return end

    patch.setattr(redaction, "_taken", counted)
    return taken


REPEATED = [
    "cookie:",
    "cookie: ",
    "token=",
    'token="',
    "token='\\\"",
    "password ",
    "secret=\\",
    "Bearer a",
    "://a:",
    "eyJ",
]


@pytest.mark.parametrize("unit", [*REPEATED, *map("".join, pairwise(REPEATED)), KEY_BLOCK[:40]])
def test_the_same_again_and_again_is_linear(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    text = unit * 3_000
    taken = counting_runs(monkeypatch)
    redact_text(text)
    assert sum(taken) <= RUNS_A_CHARACTER * len(text)


@settings(max_examples=300)
@given(st.lists(FRAGMENTS, max_size=8), st.integers(1, 60))
def test_any_repetition_is_linear(fragments: list[str], times: int) -> None:
    text = "".join(fragments) * times
    with pytest.MonkeyPatch.context() as patch:
        taken = counting_runs(patch)
        redact_text(text)
    assert sum(taken) <= RUNS_A_CHARACTER * (len(text) + 1)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (KEY_BLOCK, {"private_key": 1}),
        ("password=hunter2 and\napi_key: abc", {"named_value": 2}),
        (f"curl with Bearer {JWT}", {"credentials": 1}),
        ("psql postgres://joe:hunter2@db/x", {"url_password": 1}),
        (f"{JWT} and AKIAABCDEFGHIJKLMNOP", {"token": 2}),
        (f"Authorization: Bearer {JWT}", {"named_value": 1}),
        ("nothing", {}),
    ],
)
def test_secrets_are_counted_by_what_they_were_told_by(text: str, kinds: dict[str, int]) -> None:
    findings = Findings()
    told = redact_text(text, findings)
    assert findings.kinds == kinds
    assert told == redact_text(text)
    redact_text(told, findings)
    assert findings.kinds == kinds, "what was redacted isn't counted again"


def test_values_with_telling_names_are_counted_too() -> None:
    findings = Findings()
    value = {"password": "hunter2", "pin_code": 5, "api_key": 12, "note": f"use {JWT}", "token": None}
    assert redact(value, findings) == redact(value)
    assert findings.kinds == {"named_value": 2, "token": 1}
    assert findings.texts == {"hunter2", "12", JWT}


def test_a_secret_is_known_by_its_odd_words() -> None:
    findings = Findings(texts={"Hunter2,", "correct horse_battery", "ab1", "ab12"})
    assert findings.words() == {"hunter2", "correct", "battery", "ab12"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("topic cook+hunter2x+soup", f"topic cook+{MARK}+soup"),
        ("HUNTER2X is not hunter2xy", f"{MARK} is not hunter2xy"),
        ("he said hunter...", f"he said {MARK}..."),
        ("he said hunt...", "he said hunt..."),
        ("the hunter waits", "the hunter waits"),
        ("nothing", "nothing"),
    ],
)
def test_a_known_secret_goes_wherever_it_stands(text: str, told: str) -> None:
    known, findings = frozenset({"hunter2x"}), Findings()
    assert redact_text(text, findings, known) == told
    assert redact({"hint": [text]}, None, known) == {"hint": [told]}
    assert findings.kinds == ({} if text == told else {"known_secret": 1})
