"""The engine against a model of it: any operations, in two namespaces, over restarts, answered as the model says.

The model (`tests.support.model`) is written from the specification, in plain dicts. A script of operations is drawn
first and then played on an engine in this process; every answer is compared with the model's, and after every
change of many memories, and at the end, all that the engine holds.

A sample is played, some 20 s of it; CEREMEMORY_TEST_SWEEP=full plays more and shrinks what fails. hypothesis prints
the script that failed and how to play it again; `--hypothesis-seed=N` draws the same scripts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cerememory.protocol.records import AssociationType
from cerememory.protocol.values import NANOS
from tests.support.model.changes import (
    Carry,
    ChangeMode,
    ConsolidateAll,
    Dream,
    ForgetSome,
    Given,
    RestoreSome,
    Said,
    StoreBatch,
    StoreOne,
    StoreRaw,
    Tick,
    Update,
)
from tests.support.model.memories import DURABLE, WORKING
from tests.support.model.namespace import Rules
from tests.support.model.nights import Choice
from tests.support.model.questions import (
    ALL,
    Associate,
    Forecast,
    Graph,
    Look,
    Recall,
    RecallRaw,
    Timeline,
)
from tests.support.model.stage import Change, Place, Stage, perform, staged

IS_FULL = os.environ.get("CEREMEMORY_TEST_SWEEP") == "full"
EXAMPLES = 400 if IS_FULL else 15
PHASES = tuple(Phase) if IS_FULL else (Phase.explicit, Phase.reuse, Phase.generate)

NAMES = ("default", "work")
DAY_S = 86_400
TEXTS = (
    "kettle",
    "anchor kettle",
    "The Kettle",
    " the  kettle",
    "parrot",
    "anchor?",
    "violin parrot anchor lantern",
)
WORDS = ("kettle", "anchor", "parrot", "violin lantern", "glacier")
TALK = ("kettle on", "the kettle is hot", "anchor", "ok", "parrot and violin", "")


class Step(Protocol):
    async def run(self, place: Place) -> None: ...


@dataclass(frozen=True)
class Changing:
    change: Change

    async def run(self, place: Place) -> None:
        await perform(place, self.change)


@dataclass(frozen=True)
class Passing:
    """Time passes."""

    seconds: int

    async def run(self, place: Place) -> None:
        place.stage.clock.at += self.seconds * NANOS


@dataclass(frozen=True)
class Restart:
    async def run(self, place: Place) -> None:
        await place.stage.restart()


numbers = st.integers(-1, 40)
some_numbers = st.lists(st.integers(0, 40), max_size=3).map(tuple)
keys = st.sampled_from([None, None, None, "k", "l"])
stores = st.sampled_from([None, *DURABLE, WORKING])
some_stores = st.none() | st.lists(st.sampled_from([*DURABLE, WORKING]), min_size=1, unique=True).map(tuple)
vectors = st.sampled_from([None, [1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0]])
emotions = st.sampled_from([None, {"joy": 1.0, "intensity": 1.0}, {"fear": 0.5}, {"joy": 0.5, "fear": 0.5}])
sessions = st.sampled_from([None, "s-1", "s-2"])
kinds = st.sampled_from([kind.value for kind in AssociationType][:3])
some_kinds = st.none() | st.lists(kinds, max_size=2).map(tuple)
edges = st.lists(st.tuples(numbers, kinds, st.sampled_from([0.0, 0.1, 0.5, 1.0])), max_size=2).map(tuple)
last = st.sampled_from([None, 0, 10, DAY_S, 10_000 * DAY_S])
fidelities = st.sampled_from([None, 0.2, 0.95])
limits = st.sampled_from([ALL, ALL, 3, 1, 0])
levels = st.none() | st.lists(st.sampled_from(["public", "sensitive", "secret"]), max_size=2).map(tuple)
sees = st.lists(st.sampled_from(["private_scratch", "sealed"]), max_size=2, unique=True).map(tuple)

given_ = st.builds(
    Given,
    st.sampled_from(TEXTS),
    store=stores,
    summary=st.sampled_from([None, None, "glacier"]),
    embedding=vectors,
    emotion=emotions,
    session=sessions,
    edges=edges,
)
said = st.builds(
    Said,
    st.sampled_from(TALK),
    session=st.sampled_from(["s-1", "s-2"]),
    topic=st.sampled_from([None, "boats", " "]),
    visibility=st.sampled_from(["normal", "normal", "private_scratch", "sealed"]),
    secrecy=st.sampled_from(["public", "sensitive", "secret"]),
)
encodes = st.one_of(
    st.builds(StoreOne, given_, key=keys, if_absent=st.sampled_from([False, False, True])),
    st.builds(StoreBatch, st.lists(given_, min_size=1, max_size=4).map(tuple), infer=st.booleans(), key=keys),
    st.builds(
        Update,
        numbers,
        text=st.none() | st.sampled_from(TEXTS),
        embedding=vectors,
        emotion=emotions,
        session=sessions,
        expects=st.sampled_from([None, None, "current", "other"]),
        key=keys,
    ),
    st.builds(StoreRaw, st.lists(said, min_size=1, max_size=4).map(tuple), key=keys),
)
lifecycle = st.one_of(
    st.builds(Tick, st.sampled_from([None, None, 0, 3_600, 30 * DAY_S]), key=keys),
    st.builds(ChangeMode, st.sampled_from(["perfect", "human"]), scope=some_stores),
    st.builds(
        ForgetSome,
        some_numbers,
        raw_numbers=st.lists(st.integers(0, 40), max_size=1).map(tuple),
        store=st.sampled_from([None, None, None, "procedural", WORKING]),
        span_s=st.sampled_from([None, None, None, 3, 3_600]),
        session=st.sampled_from([None, None, "s-1"]),
        cascade=st.booleans(),
        dry_run=st.booleans(),
    ),
    st.builds(RestoreSome, some_numbers),
    st.builds(
        Dream,
        session=st.sampled_from([None, None, "s-1"]),
        dry_run=st.sampled_from([False, False, True]),
        max_groups=st.sampled_from([10, 1, 0]),
        sees=sees,
        secrecies=levels,
        promote=st.booleans(),
        key=keys,
    ),
    st.builds(
        ConsolidateAll,
        st.builds(
            Choice,
            st.sampled_from(["full", "incremental", "selective"]),
            st.sampled_from([0, 1]),
            st.sampled_from([0, 1]),
            st.booleans(),
        ),
        dry_run=st.sampled_from([False, False, True]),
        key=keys,
    ),
)
questions = st.one_of(
    st.builds(
        Recall,
        text=st.none() | st.sampled_from(WORDS),
        embedding=vectors,
        emotion=emotions,
        last_s=last,
        stores=some_stores,
        limit=limits,
        min_fidelity=fidelities,
        include_decayed=st.booleans(),
        reconsolidate=st.booleans(),
        depth=st.integers(0, 3),
        mode=st.sampled_from(["human", "perfect"]),
    ),
    st.builds(Recall, text=st.sampled_from(WORDS)),
    st.builds(Look, numbers, back=st.none() | st.integers(0, 3)),
    st.builds(
        RecallRaw,
        query=st.none() | st.sampled_from(WORDS),
        session=sessions,
        last_s=last,
        limit=limits,
        sees=sees,
        secrecies=levels,
    ),
    st.builds(
        Timeline,
        st.sampled_from([10, DAY_S, 10_000 * DAY_S]),
        granularity=st.sampled_from(["minute", "hour", "day", "week", "month"]),
        min_fidelity=fidelities,
        emotion=emotions,
    ),
    st.builds(
        Associate,
        numbers,
        kinds=some_kinds,
        depth=st.integers(0, 4),
        min_weight=st.sampled_from([0.0, 0.1, 0.6]),
        limit=st.sampled_from([256, 2, 0]),
    ),
    st.builds(
        Graph,
        st.none() | numbers,
        kinds=some_kinds,
        depth=st.integers(0, 3),
        limit=st.sampled_from([ALL, 2, 0]),
    ),
    st.builds(Forecast, st.lists(numbers, max_size=3).map(tuple), st.sampled_from([-10, 0, DAY_S, 900 * DAY_S])),
)
carries = st.builds(
    Carry,
    into=st.sampled_from([None, *NAMES]),
    stores=some_stores,
    has_raw=st.booleans(),
    strategy=st.sampled_from(["merge", "merge", "replace"]),
    resolution=st.sampled_from(["keep_existing", "keep_imported", "keep_newer"]),
    dry_run=st.sampled_from([False, False, True]),
)
pauses = st.sampled_from([60, 720, 3_000, DAY_S, 40 * DAY_S, 900 * DAY_S])
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(Changing, encodes),
    st.builds(Changing, encodes),
    questions,
    questions,
    st.builds(Changing, lifecycle),
    st.one_of(carries, st.builds(Passing, pauses), st.builds(Passing, pauses), st.builds(Restart)),
)
rules = st.builds(
    Rules,
    prune=st.sampled_from(["never", "archive", "delete"]),
    archive_days=st.just(30),
    time_unit_s=st.sampled_from([DAY_S, DAY_S, 60, 1]),
    versions_kept=st.sampled_from([100, 1, 0]),
    evolves=st.booleans(),
)


@dataclass(frozen=True)
class Scene:
    """What happens where."""

    name: str
    step: Step

    async def play(self, stage: Stage) -> None:
        stage.clock.at += NANOS
        place = await stage.place(self.name)
        await self.step.run(place)
        await stage.settle()
        if not isinstance(self.step, (Passing, Recall, Look, RecallRaw, Timeline, Associate, Graph, Forecast)):
            for each in stage.places.values():
                await each.compare()


scenes = st.builds(Scene, st.sampled_from(NAMES), steps)


async def play(script: list[Scene], chosen: Rules, *, is_on_disk: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with staged(Path(folder), chosen, is_on_disk=is_on_disk) as stage:
            for number, scene in enumerate(script):
                try:
                    await scene.play(stage)
                except BaseException as error:
                    error.add_note(f"in scene {number}: {scene}")
                    raise


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=PHASES,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(scenes, min_size=25, max_size=60), rules, st.sampled_from([False, False, False, True]))
def test_any_operations_are_answered_as_the_model_says(
    script: list[Scene], chosen: Rules, is_on_disk: bool
) -> None:
    async def whole() -> None:
        await play(script, chosen, is_on_disk=is_on_disk)

    trio.run(whole, clock=MockClock(autojump_threshold=0))
