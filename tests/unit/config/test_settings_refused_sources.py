"""What no source may say: unknown names, values of another type, files that can't be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from cerememory.config.keys import BY_NAME, KEYS, Key
from cerememory.config.sources import FILE_BYTES_MAX, load
from cerememory.errors import ConfigInvalid


def refusal(
    path: Path | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
    overrides: Mapping[str, object] = MappingProxyType({}),
) -> list[str]:
    with pytest.raises(ConfigInvalid) as refused:
        load(path, environ, overrides)
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[htpp]\nport = 1", "htpp: unknown section, did you mean http?"),
        ("[zzz]", "zzz: unknown section"),
        ("[http]\nprt = 1", "http.prt: unknown key, did you mean http.port?"),
        ("[http]\nzzz = 1", "http.zzz: unknown key"),
        ('level = "info"', "level: unknown key, did you mean log.level?"),
        ('datadir = "x"', "datadir: unknown key, did you mean data_dir?"),
        ("[data_dir]", "data_dir: expected a string, got a table"),
        ("http = 8420", "http: expected a section, [http], got a value"),
        ('"http.port" = 1', "http.port: the name must not be quoted"),
        ('[http]\nport = "8420"', "http.port: expected an integer, got a string"),
        ("[http]\nport = true", "http.port: expected an integer, got a boolean"),
        ("[http]\nport = 84.2", "http.port: expected an integer, got a number"),
        ("[http]\nport = 2020-01-01", "http.port: expected an integer, got a date"),
        ("[auth]\nenabled = 1", "auth.enabled: expected true or false, got an integer"),
        ('[auth]\napi_keys = "k"', "auth.api_keys: expected a list of strings, got a string"),
        ("[auth]\napi_keys = [1]", "auth.api_keys: expected a list of strings, got a list with an integer"),
        ('[decay]\nepsilon = "x"', "decay.epsilon: expected a number, got a string"),
        (f"decay.epsilon = 1{'0' * 400}", "decay.epsilon: is too large"),
        ("data_dir = 1", "data_dir: expected a string, got an integer"),
        ('data_dir = " "', "data_dir: must not be blank"),
        ('data_dir = "a\\u0000b"', "data_dir: must not hold a NUL character"),
        ('[security]\naudit_log_path = ""', "security.audit_log_path: must not be blank"),
        ('[log]\nlevel = "Info"', "log.level: expected trace, debug, info, warn or error, got 'Info'"),
        ('[log]\nformat = "xml"', "log.format: expected pretty or json, got 'xml'"),
        ('[decay]\nprune = "NEVER"', "decay.prune: expected never, archive or delete, got 'NEVER'"),
        ('[index]\nanalyzer = ["auto"]', "index.analyzer: expected a string, got a list"),
    ],
)  # fmt: skip
def test_a_file_is_refused_for(toml: Callable[[str], Path], text: str, line: str) -> None:
    path = toml(text)
    assert refusal(path) == [f"{line} ({path})"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HTTP_PORT", "HTTP__PORT"),
        ("AUTH__API_KEY", "AUTH__API_KEYS"),
        ("AUTH_API_KEY", "AUTH_API_KEYS"),
        ("SERVER_APIKEY", "SERVER_API_KEY"),
    ],
)
def test_a_variable_that_is_no_key_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    name, meant = f"CEREMEMORY_{name}", f"CEREMEMORY_{meant}"
    assert refusal(environ={name: "1"}) == [f"{name}: unknown variable, did you mean {meant}? (environment)"]


def test_a_variable_that_is_like_no_other_is_refused_without_a_guess() -> None:
    assert refusal(environ={"CEREMEMORY_ZZZ": "1"}) == ["CEREMEMORY_ZZZ: unknown variable (environment)"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("http.port", "x", "expected an integer, got 'x'"),
        ("http.port", "", "expected an integer, got ''"),
        ("http.port", "1_0", "expected an integer, got '1_0'"),
        ("http.port", "8420.0", "expected an integer, got '8420.0'"),
        ("auth.enabled", "yes", "expected true or false, got 'yes'"),
        ("auth.enabled", "True", "expected true or false, got 'True'"),
        ("decay.epsilon", "nan", "expected a number, got 'nan'"),
        ("log.level", "INFO", "expected trace, debug, info, warn or error, got 'INFO'"),
        ("llm.model", "\udcff", "is not valid UTF-8"),
        ("data_dir", "", "must not be blank"),
    ],
)
def test_a_variable_whose_text_cannot_be_its_keys_value_is_refused(key: str, value: str, reason: str) -> None:
    name = BY_NAME[key].env_name
    assert refusal(environ={name: value}) == [f"{key}: {reason} (environment {name})"]


def test_a_name_that_is_no_key_is_refused_on_the_command_line() -> None:
    assert refusal(overrides={"http.prot": 1}) == [
        "http.prot: unknown key, did you mean http.port? (command line)"
    ]


def test_all_problems_of_all_sources_are_told_at_once(toml: Callable[[str], Path]) -> None:
    path = toml('[http]\nport = "x"\n[nope]\n[log]\nlevel = "loud"')
    lines = refusal(path, {"CEREMEMORY_AUTH__ENABLED": "si", "CEREMEMORY_X": ""}, {"http.port": "y"})
    assert [line.split(":")[0] for line in lines] == [
        "http.port",
        "nope",
        "log.level",
        "auth.enabled",
        "CEREMEMORY_X",
        "http.port",
    ]
    assert all(line.endswith(")") for line in lines)


def test_a_value_that_another_source_overrides_is_refused_too(toml: Callable[[str], Path]) -> None:
    assert len(refusal(toml("http.port = []"), {}, {"http.port": 1})) == 1


@pytest.mark.parametrize("key", [key for key in KEYS if key.is_secret], ids=lambda key: key.dotted)
def test_a_refused_secret_is_not_repeated(key: Key) -> None:
    text = "[hunter2" if key.is_list else "hunter2\udcff"
    assert "hunter2" not in "\n".join(refusal(environ={key.env_name: text}))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert refusal(path) == [f"{path}: can't be read: No such file or directory (command line)"]
    (line,) = refusal(environ={"CEREMEMORY_CONFIG": str(path)})
    assert line.endswith("No such file or directory (environment CEREMEMORY_CONFIG)")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == [f"{tmp_path}: can't be read: Is a directory (command line)"]


@pytest.mark.parametrize(
    ("content", "line"),
    [("[http]\nport = \n", 2), ("[http]\n\nport", 3), ("a = 1\na = 2\n\n", 2), ("x = [", 1)],
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(
    toml: Callable[[str], Path], content: str, line: int
) -> None:
    path = toml(content)
    (problem,) = refusal(path)
    assert problem.startswith(f"{path}: is not valid TOML: ")
    assert f"(at line {line}, " in problem


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"# fine\nx = '\xff'", "is not valid UTF-8 (at line 2)"),
        (b"x = " + b"[" * 10_000, "is not valid TOML: nested too deeply"),
        (b"#" * (FILE_BYTES_MAX + 1), "is larger than 1,048,576 bytes"),
    ],
    ids=["encoding", "depth", "size"],
)
def test_a_file_that_cannot_be_parsed_at_all_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "cerememory.toml"
    path.write_bytes(content)
    assert refusal(path) == [f"{path}: {reason}"]


def test_a_command_that_uses_few_keys_is_not_stopped_by_others(toml: Callable[[str], Path]) -> None:
    path = toml('[http]\nport = 9000\nprt = 1\n[log]\nlevel = "loud"\n[nope]\n')
    used = ("http.port", "http.bind_address")
    assert load(path, {"CEREMEMORY_X": "1"}, {}, only=used).settings.http.port == 9000
    with pytest.raises(ConfigInvalid, match=r"^http\.port: expected an integer, got a string \(command line\)$"):
        load(path, {}, {"http.port": "x"}, only=used)


@pytest.mark.parametrize("text", ["[a,b", '["a",b]', '["a","b"', "["])
def test_a_list_that_is_half_json_is_refused(text: str) -> None:
    (line,) = refusal(environ={"CEREMEMORY_HTTP__ALLOWED_HOSTS": text})
    assert line.startswith("http.allowed_hosts: expected a list as ")


def test_a_tilde_without_a_home_is_refused() -> None:
    assert refusal(overrides={"data_dir": "~/memory"}) == ["data_dir: ~/ needs HOME to be set (command line)"]


def test_a_command_that_uses_few_keys_still_needs_a_file_that_can_be_read(
    toml: Callable[[str], Path],
) -> None:
    with pytest.raises(ConfigInvalid, match="is not valid TOML"):
        load(toml("http"), {}, {}, only=("http.port",))
