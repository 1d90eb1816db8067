"""What lies in `ops`, read by parsers of the tests' own; `tests/operations` asks the programs it is for."""

from __future__ import annotations

import configparser
import json
import plistlib
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from cerememory.cli.service_files import COMMAND, layout
from cerememory.config.checks import check
from cerememory.config.sources import load

ROOT = Path(__file__).parents[3]
OPS = ROOT / "ops"
DATA_DIR = "/var/lib/cerememory"
TOOL_S = 60.0
HARDENED = {
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "NoNewPrivileges": "true",
    "PrivateTmp": "true",
    "StateDirectory": "cerememory",
    "ReadWritePaths": DATA_DIR,
    "User": "cerememory",
    "Group": "cerememory",
    "Restart": "on-failure",
    "RestartSec": "5",
    "Type": "notify",
    "ExecStart": f"{COMMAND} serve --config /etc/cerememory/cerememory.toml",
}


class Unit(configparser.RawConfigParser):
    """A unit file; of names that come more than once, the last value."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#", ";"), interpolation=None)
        self.read_string(path.read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOOL_S)


def test_the_package_has_the_files_of_the_folder() -> None:
    packaged = Path(str(files("cerememory").joinpath("ops")))
    assert packaged.resolve() == OPS.resolve()


def test_the_unit_is_hardened_as_the_specification_says() -> None:
    unit = Unit(OPS / "systemd" / "cerememory.service")
    assert HARDENED.items() <= dict(unit["Service"]).items()
    assert unit["Unit"]["After"] == unit["Unit"]["Wants"] == "network-online.target"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_watchdog_and_stop_leave_the_daemon_the_time_that_it_takes() -> None:
    for folder in ("systemd", "systemd-user"):
        service = Unit(OPS / folder / "cerememory.service")["Service"]
        assert int(service["WatchdogSec"]) >= 30
        assert int(service["TimeoutStopSec"]) > 60, "30 s for requests, then commits, audit log and index"


@pytest.mark.parametrize("home", [None, "/home/somebody"], ids=["system", "user"])
def test_the_units_as_they_are_installed_have_the_sections_of_units(tmp_path: Path, home: str | None) -> None:
    command = shutil.which("true")
    assert command is not None
    service = layout("systemd", Path(command), None if home is None else Path(home), tmp_path)
    units = [file for file in service.files if file.target.suffix in (".service", ".timer")]
    for file in units:
        file.target.parent.mkdir(parents=True, exist_ok=True)
        file.target.write_text(service.rendered(file))
        sections = Unit(file.target).sections()
        assert sections[0] == "Unit"
        assert set(sections) <= {"Unit", "Service", "Timer", "Install"}


@pytest.mark.parametrize(
    ("folder", "name"), [("systemd", "cerememory.service"), ("systemd-user", "cerememory.service")]
)
def test_the_backup_runs_what_the_daemon_runs(folder: str, name: str) -> None:
    daemon, backup = (Unit(OPS / folder / each)["Service"] for each in (name, "cerememory-backup.service"))
    config = re.search(r"--config (\S+)", daemon["ExecStart"])
    assert config is not None
    arguments = backup["ExecStart"].split()
    assert arguments[-2:] == ["--config", config[1]]
    assert arguments[:1] == ["/bin/sh"]
    assert arguments[2] == COMMAND
    assert backup["EnvironmentFile"] == daemon["EnvironmentFile"]


def test_the_launchd_agent_has_what_the_specification_says() -> None:
    plist: dict[str, Any] = plistlib.loads((OPS / "launchd" / "com.cerememory.plist").read_bytes())
    assert plist["Label"] == "com.cerememory"
    assert plist["RunAtLoad"] is plist["KeepAlive"] is True
    assert plist["StandardOutPath"] != plist["StandardErrorPath"]
    assert plist["ProgramArguments"] == [COMMAND, "serve", "--config", "/usr/local/etc/cerememory/cerememory.toml"]


@pytest.mark.parametrize(
    ("path", "data_dir"),
    [
        ("systemd/cerememory.toml", DATA_DIR),
        ("systemd-user/cerememory.toml", "/home/somebody/.local/share/cerememory"),
        ("launchd/cerememory.toml", "/usr/local/var/cerememory"),
    ],
)
def test_a_daemon_starts_with_each_configuration(path: str, data_dir: str) -> None:
    loaded = load(OPS / path, {"HOME": "/home/somebody"}, {})
    check(loaded.settings, True, loaded.origins)
    assert str(loaded.settings.data_dir) == data_dir


def test_the_shell_reads_the_backup_script() -> None:
    assert ran("sh", "-n", OPS / "backup" / "cerememory-backup").returncode == 0


def dockerfile() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (OPS / "docker" / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(instruction, " ".join(arguments.split())) for instruction, arguments in lines]


def test_the_image_runs_as_nobody_special_and_says_whether_it_lives() -> None:
    stages = [index for index, (instruction, _) in enumerate(dockerfile()) if instruction == "FROM"]
    last = dockerfile()[stages[-1] :]
    named = dict(last)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", named["USER"]), "by number: a read-only root may be asked for that"
    assert named["HEALTHCHECK"].endswith('CMD ["cerememory", "healthcheck"]')
    assert (json.loads(named["ENTRYPOINT"]), json.loads(named["CMD"])) == (["cerememory"], ["serve"])
    assert named["VOLUME"] == DATA_DIR
    assert [instruction for instruction, _ in last].index("USER") > max(
        index for index, (instruction, _) in enumerate(last) if instruction in ("RUN", "COPY")
    )


def test_the_image_is_made_of_what_is_there() -> None:
    ignored = (OPS / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [text.split()[:-1] for kind, text in dockerfile() if kind == "COPY" and not text.startswith("--from")]
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_the_environment_of_the_image_is_a_configuration_that_asks_for_keys() -> None:
    [text] = [text for kind, text in dockerfile() if kind == "ENV"]
    environ = dict(pair.split("=", 1) for pair in text.split() if pair.startswith("CEREMEMORY_"))
    composed = yaml.safe_load((OPS / "docker" / "compose.yaml").read_text())["services"]["cerememory"]
    settings = load(None, {**environ, **composed["environment"]}, {}).settings
    check(settings, True, has_stored_keys=True)
    assert settings.auth.enabled
    assert str(settings.data_dir) == DATA_DIR


def test_the_composed_container_can_write_its_data_alone() -> None:
    path = OPS / "docker" / "compose.yaml"
    composed = yaml.safe_load(path.read_text())
    service = composed["services"]["cerememory"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"] == [f"data:{DATA_DIR}"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    build = service["build"]
    assert (path.parent / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).exists()


def test_the_proxies_pass_streams_of_any_size_and_say_who_asks() -> None:
    nginx = (OPS / "nginx" / "cerememory.conf").read_text()
    assert nginx.count("{") == nginx.count("}")
    for line in (
        "client_max_body_size 0;",
        "proxy_request_buffering off;",
        "proxy_buffering off;",
        "proxy_set_header Host $host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
    ):
        assert line in nginx
    caddy = (OPS / "caddy" / "Caddyfile").read_text()
    assert caddy.count("{") == caddy.count("}")
    assert "reverse_proxy 127.0.0.1:8420" in caddy
