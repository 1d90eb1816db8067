"""`ops` read by the programs it is for: systemd, Prometheus, Caddy. `make check-ops` runs this folder.

It needs those programs, so `make test` leaves it out, and reads the same files with parsers of its own; `.ci/run`
installs them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cerememory.cli.service_files import layout

OPS = Path(__file__).parents[2] / "ops"
PROMETHEUS = OPS / "prometheus"
TOOL_S = 60.0


def ran(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOOL_S)


@pytest.mark.parametrize("home", [None, "/home/somebody"], ids=["system", "user"])
def test_systemd_takes_the_units_as_they_are_installed(tmp_path: Path, home: str | None) -> None:
    service = layout("systemd", Path("/bin/true"), None if home is None else Path(home), tmp_path)
    units = [file for file in service.files if file.target.suffix in (".service", ".timer")]
    assert units
    for file in units:
        file.target.parent.mkdir(parents=True, exist_ok=True)
        file.target.write_text(service.rendered(file))
    for file in units:
        verified = ran("systemd-analyze", "verify", "--man=no", *(["--user"] if home else []), file.target)
        said = [line for line in verified.stderr.splitlines() if file.target.name in line]
        assert said == [], f"{file.target}: {said}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "cerememory.rules.yml"),
        ("test", "rules", "cerememory.rules.test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_takes_its_files(arguments: tuple[str, ...]) -> None:
    checked = ran("promtool", *arguments[:-1], PROMETHEUS / arguments[-1])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_caddy_takes_its_file() -> None:
    read = ran("caddy", "adapt", "--config", OPS / "caddy" / "Caddyfile", "--adapter", "caddyfile")
    assert read.returncode == 0, read.stderr
