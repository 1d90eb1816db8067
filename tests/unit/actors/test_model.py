"""The engine against a model of it: any operations, in two namespaces, over restarts, answered as the model says.

The model (`tests.support.model`) is written from the specification, in plain dicts. A script of operations is
drawn first, by a seed, and then played on an engine in this process; every answer is compared with the model's,
and often all that the engine holds. When the engine is closed, what it stored must add up.

A sample is played, some 5 s of it; CEREMEMORY_TEST_SWEEP=full plays more, CEREMEMORY_TEST_SEED=N the script of
seed N and those after it. When one fails, scenes are taken out of it for as long as it still does, and what is
left is shown.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import trio
from trio.testing import MockClock

from tests.support.model.author import Author, Script
from tests.support.model.stage import Disagreement, staged
from tests.support.sweep import IS_FULL, run_seed

SCRIPTS = 300 if IS_FULL else 7
SCENES = 80
REPLAYS_MAX = 200  # to find a shorter script that fails, too


async def play(script: Script) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with staged(Path(folder), script.rules, is_on_disk=script.is_on_disk) as stage:
            for number, scene in enumerate(script.scenes):
                try:
                    await scene.play(stage)
                except Exception as error:
                    error.add_note(f"scene {number}")
                    raise


def failure(script: Script) -> Exception | None:
    try:
        trio.run(play, script, clock=MockClock(autojump_threshold=0))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked for with fewer scenes
        return error
    return None


def shortened(script: Script) -> Script:
    """A script that still fails; without any more of its scenes it may not."""
    size, replays = len(script.scenes) // 2, 0
    while size and replays < REPLAYS_MAX:
        before = script
        for start in range(len(script.scenes) - size, -1, -size):
            left = replace(script, scenes=script.scenes[:start] + script.scenes[start + size :])
            replays += 1
            if failure(left) is not None:
                script = left
        if script is before:
            size //= 2
    return script


def shown(script: Script) -> str:
    scenes = "\n".join(f"  {number}: {scene}" for number, scene in enumerate(script.scenes))
    return f"{script.rules}, on disk: {script.is_on_disk}\n{scenes}"


def test_any_operations_are_answered_as_the_model_says() -> None:
    first = run_seed()
    for seed in range(first, first + SCRIPTS):
        script = Author(seed).script(SCENES)
        if failure(script) is not None:
            script = shortened(script)
            raise Disagreement(f"seed {seed}\n{shown(script)}") from failure(script)
