"""`python -m tests.fuzz.run codecs|http [--seconds S] [--target NAME] [--seed N] [--keep] [--report FILE]`.

`codecs` gives each target an equal part of the seconds. With atheris each runs in a process of its own, which
follows the code; without it (there is a wheel for some Pythons only) inputs are mutated at random. An input that
crashes is left in the working directory as `crash-TARGET-…`, and the exit code is 1. `--keep` makes the corpus,
which is committed, anew: the smallest inputs that reach what it and the new ones reach.

`http` asks a daemon of its own for everything that its OpenAPI document describes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import random_input
from tests.fuzz.targets import BY_NAME, TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
KEPT_BYTES_MAX = 2_048
KEPT_MAX = 48  # of one target
INPUT_BYTES_MAX = 8_192
INPUT_S_MAX = 10  # an input that takes longer is a crash
MEMORY_MIB_MAX = 2_048
SECONDS = 180

_RUNS = re.compile(r"number_of_executed_units:\s*(\d+)")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz.run")
    parser.add_argument("what", choices=["codecs", "http"])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--target", choices=sorted(BY_NAME), action="append")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(argv)
    print(f"fuzz {options.what}: {options.seconds:g} s, seed {options.seed}", flush=True)
    report = _http(options) if options.what == "http" else _codecs(options)
    print(f"{report['runs']} runs of {report['points']} targets, {report['losses']} crashes")
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["losses"] else 0


def _report(runs: dict[str, int], crashes: dict[str, int], options: argparse.Namespace, engine: str) -> Any:
    return {
        "what": "fuzz",
        "runs": sum(runs.values()),
        "points": len(runs),
        "losses": sum(crashes.values()),
        "details": {
            "of": options.what,
            "engine": engine,
            "seconds": options.seconds,
            "seed": options.seed,
            "runs": runs,
            "crashes": crashes,
        },
    }


def _http(options: argparse.Namespace) -> Any:
    from tests.fuzz.http import Findings, ask_everything  # here, for it loads much

    findings = Findings()
    ask_everything(findings, seed=options.seed, seconds=options.seconds)
    for finding in findings.failures:
        print(finding, end="\n\n")
    return _report(dict(findings.asked), dict(findings.failed), options, "schemathesis")


def _codecs(options: argparse.Namespace) -> Any:
    targets = [BY_NAME[name] for name in options.target] if options.target else list(TARGETS)
    is_followed = find_spec("atheris") is not None
    fuzz = _followed if is_followed else _at_random
    runs: Counter[str] = Counter()
    crashes: Counter[str] = Counter()
    for target in targets:
        runs[target.name], crashes[target.name] = fuzz(target, options.seconds / len(targets), options)
        print(f"  {target.name}: {runs[target.name]} runs, {crashes[target.name]} crashes", flush=True)
    return _report(dict(runs), dict(crashes), options, "atheris" if is_followed else "random mutations")


def _followed(target: Target, seconds: float, options: argparse.Namespace) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        found, seeds, words = Path(folder, "found"), Path(folder, "seeds"), Path(folder, "words")
        for new in (found, seeds):
            new.mkdir()
        _fill(seeds, target)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
        limits = (f"-max_len={INPUT_BYTES_MAX}", f"-timeout={INPUT_S_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}")
        told = (f"-max_total_time={max(1, round(seconds))}", f"-seed={options.seed}", f"-dict={words}")
        crash = f"-artifact_prefix=crash-{target.name}-"
        ended = _atheris(target, *limits, *told, crash, "-print_final_stats=1", str(found), str(seeds))
        runs = _RUNS.search(ended.stderr)
        if runs is None:
            raise SystemExit(f"{target.name} can't be run:\n{ended.stderr[-2_000:]}")
        if ended.returncode != 0:
            print(ended.stdout[-4_000:], ended.stderr[-4_000:], sep="\n")
        elif options.keep:
            _keep(target, found)
        return int(runs[1]), int(ended.returncode != 0)


def _atheris(target: Target, *told: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.followed", target.name, *told]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env={**os.environ, **env}
    )


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _fill(folder: Path, target: Target) -> None:
    for data in _known(target):
        if len(data) <= INPUT_BYTES_MAX:
            (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def _known(target: Target) -> Iterator[bytes]:
    yield from target.seeds
    yield from (file.read_bytes() for file in _kept(target))


def _kept(target: Target) -> list[Path]:
    folder = CORPUS / target.name
    return sorted(folder.iterdir()) if folder.exists() else []


def _keep(target: Target, found: Path) -> None:
    """The fewest and smallest inputs that reach as much as the corpus and `found` together become the corpus."""
    folder = CORPUS / target.name
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as room:
        merged, small, itself = Path(room, "merged"), Path(room, "small"), Path(room, "itself")
        for new in (merged, small):
            new.mkdir()
        for file in found.iterdir():
            if file.stat().st_size <= KEPT_BYTES_MAX:
                shutil.copy(file, small)
        itself.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fuzz.followed {target.name} "$@"\n')
        itself.chmod(0o700)
        ended = _atheris(target, "-merge=1", str(merged), str(folder), str(small), FUZZ_COMMAND=str(itself))
        kept = sorted(merged.iterdir(), key=lambda file: (file.stat().st_size, file.name))[:KEPT_MAX]
        if ended.returncode != 0 or not kept:
            raise SystemExit(f"the corpus of {target.name} can't be merged:\n{ended.stderr[-2_000:]}")
        for file in folder.iterdir():
            file.unlink()
        for file in kept:
            shutil.copyfile(file, folder / file.name)


def _at_random(target: Target, seconds: float, options: argparse.Namespace) -> tuple[int, int]:
    known, rng = [b"", *_known(target)], random.Random(f"{options.seed} {target.name}")
    runs = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = random_input(target, known, rng)
        runs += 1
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - that is what is looked for
            traceback.print_exc()
            Path(f"crash-{target.name}-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            return runs, 1
    return runs, 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
