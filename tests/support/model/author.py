"""Who writes scripts: what happens, one scene after the other, drawn by a seed.

Memories are named by numbers, which mean whatever is there when the scene is played: so every script can be
played, and so can what is left of one when scenes are taken out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

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
from tests.support.model.stage import Change, Place, Stage, perform

T = TypeVar("T")

NAMES = ("default", "work")
HOUR_S, DAY_S = 3_600, 86_400
EVER_S = 100_000 * DAY_S
PAUSES_S = (60, *[12 * 60, 50 * 60] * 3, DAY_S, 40 * DAY_S, 900 * DAY_S)
TEXTS = ("kettle", "The  Kettle", "anchor kettle", "parrot", "anchor?", "violin parrot anchor lantern kettle")
WORDS = ("kettle", "anchor", "parrot", "violin lantern", "glacier")
TALK = ("kettle on", "the kettle is hot", "anchor", "ok", "parrot and violin", "")
VECTORS = ([1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0])
EMOTIONS = ({"joy": 1.0, "intensity": 1.0}, {"fear": 0.5}, {"joy": 0.5, "fear": 0.5, "intensity": 0.4})
KINDS = [kind.value for kind in AssociationType][:3]
STORES = (*DURABLE, WORKING)
NUMBERS = 50  # more than there are memories most of the time


class Step(Protocol):
    async def run(self, place: Place) -> None: ...


@dataclass(frozen=True)
class Changing:
    change: Change

    async def run(self, place: Place) -> None:
        await perform(place, self.change)


@dataclass(frozen=True)
class Restart:
    async def run(self, place: Place) -> None:
        await place.stage.restart()


@dataclass(frozen=True)
class Scene:
    """What happens where, and how long after the scene before; `everything`: not the answer alone is compared."""

    after_s: int
    name: str
    step: Step
    everything: bool

    async def play(self, stage: Stage) -> None:
        stage.clock.at += self.after_s * NANOS
        await self.step.run(await stage.place(self.name))
        await stage.settle()
        if self.everything:
            for place in stage.places.values():
                await place.compare()


@dataclass(frozen=True)
class Script:
    rules: Rules
    is_on_disk: bool
    scenes: tuple[Scene, ...]


class Author:
    """Each prefers some kinds of memories, so that a script has many of them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._store = self._one(None, "episodic", WORKING)
        self._texts = self._rng.sample(TEXTS, 3)
        self._topics = self._one(("boats",), ("boats", " ", None), (None,))
        self._keyed: list[Step] = []

    def script(self, length: int) -> Script:
        rules = Rules(
            prune=self._one("never", "archive", "archive", "delete"),
            archive_days=self._one(30, 100_000),
            time_unit_s=self._one(DAY_S, HOUR_S, 1),
            versions_kept=self._one(100, 1, 0),
            evolves=self._one(True, True, False),
        )
        return Script(rules, self._one(False, False, False, True), tuple(self._scene() for _ in range(length)))

    def _scene(self) -> Scene:
        acts = {
            self._memories: 20,
            self._entries: 12,
            self._recall: 20,
            self._question: 20,
            self._night: 14,
            self._loss: 12,
            self._carry: 5,
            self._again: 4,
        }
        [act] = self._rng.choices([*acts], [*acts.values()])
        step = act()
        if isinstance(step, Changing) and step.change.key is not None:
            self._keyed.append(step)
        everything = act not in (self._recall, self._question) or self._rng.random() < 0.1
        after_s = self._maybe(0.2, PAUSES_S) or 1
        return Scene(after_s, self._one("default", "default", "work"), step, everything)

    def _again(self) -> Step:
        """The daemon starts anew, or one of the last requests that had an idempotency key comes once more."""
        return self._one_of(Restart(), *self._keyed[-2:])

    def _one(self, *choices: T) -> T:
        return self._rng.choice(choices)

    def _one_of(self, *steps: Step) -> Step:
        return self._rng.choice(steps)

    def _maybe(self, chance: float, choices: Sequence[T]) -> T | None:
        return self._rng.choice(choices) if self._rng.random() < chance else None

    def _some(self, choices: Sequence[T], most: int) -> tuple[T, ...]:
        return tuple(self._rng.sample(choices, self._rng.randint(0, most)))

    def _number(self) -> int:
        return self._rng.randrange(-1, NUMBERS)

    def _numbers(self, most: int) -> tuple[int, ...]:
        return tuple(self._rng.randrange(NUMBERS) for _ in range(self._rng.randint(0, most)))

    def _key(self) -> str | None:
        return self._maybe(0.2, ("k", "l"))

    def _memories(self) -> Step:
        one = StoreOne(self._given(), key=self._key(), if_absent=self._rng.random() < 0.3)
        many = tuple(self._given() for _ in range(self._rng.randint(1, 5)))
        batch = StoreBatch(many, infer=self._one(True, False), key=self._key())
        return self._one_of(Changing(one), Changing(batch), Changing(self._update()))

    def _given(self) -> Given:
        edges = [
            (self._number(), self._one(*KINDS), self._one(0.0, 0.1, 0.5, 1.0)) for _ in range(self._one(0, 1, 2))
        ]
        return Given(
            self._one(*self._texts),
            store=self._one(None, self._store, self._store, *STORES),
            summary=self._maybe(0.2, ("glacier",)),
            embedding=self._maybe(0.5, VECTORS),
            emotion=self._maybe(0.4, EMOTIONS),
            session=self._maybe(0.4, ("s-1", "s-2")),
            edges=tuple(edges),
        )

    def _update(self) -> Update:
        return Update(
            self._number(),
            text=self._maybe(0.5, TEXTS),
            embedding=self._maybe(0.5, VECTORS),
            emotion=self._maybe(0.5, EMOTIONS),
            session=self._maybe(0.2, ("s-1", "s-2")),
            expects=self._maybe(0.4, ("current", "other")),
            key=self._key(),
        )

    def _entries(self) -> Step:
        return Changing(StoreRaw(tuple(self._said() for _ in range(self._rng.randint(1, 4))), key=self._key()))

    def _said(self) -> Said:
        return Said(
            self._one(*TALK),
            session=self._one("s-1", "s-2"),
            topic=self._one(*self._topics),
            visibility=self._one("normal", "normal", "normal", "private_scratch", "sealed"),
            secrecy=self._one("public", "public", "sensitive", "secret"),
        )

    def _recall(self) -> Step:
        return Recall(
            text=self._maybe(0.6, WORDS),
            embedding=self._maybe(0.3, VECTORS),
            emotion=self._maybe(0.2, EMOTIONS),
            last_s=self._maybe(0.2, (0, HOUR_S, EVER_S)),
            stores=self._maybe(0.2, (self._some(STORES, 3), ("episodic",))) or None,
            limit=self._one(ALL, ALL, ALL, 3, 1, 0),
            min_fidelity=self._maybe(0.3, (0.2, 0.9)),
            include_decayed=self._rng.random() < 0.1,
            reconsolidate=self._rng.random() < 0.7,
            depth=self._rng.randint(0, 4),
            mode=self._one("human", "human", "perfect"),
        )

    def _question(self) -> Step:
        center = None if self._rng.random() < 0.3 else self._number()
        return self._one_of(
            Look(self._number(), back=self._maybe(0.5, range(4))),
            RecallRaw(
                query=self._maybe(0.4, WORDS),
                session=self._maybe(0.4, ("s-1", "s-2")),
                last_s=self._maybe(0.3, (0, HOUR_S, EVER_S)),
                limit=self._one(ALL, ALL, 2, 0),
                sees=self._some(("private_scratch", "sealed"), 2),
                secrecies=self._maybe(0.3, (("secret",), ("public", "secret"))),
            ),
            Timeline(
                self._one(HOUR_S, EVER_S),
                granularity=self._one("minute", "hour", "day", "week", "month"),
                min_fidelity=self._maybe(0.3, (0.2, 0.9)),
                emotion=self._maybe(0.3, EMOTIONS),
            ),
            Associate(
                self._number(),
                kinds=self._maybe(0.3, (self._some(KINDS, 2),)),
                depth=self._rng.randint(0, 5),
                min_weight=self._one(0.0, 0.1, 0.6),
                limit=self._one(256, 256, 2, 0),
            ),
            Graph(
                center,
                kinds=self._maybe(0.3, (self._some(KINDS, 2),)),
                depth=self._rng.randint(0, 3),
                limit=self._one(ALL, ALL, 2, 0),
            ),
            Forecast(self._numbers(3), self._one(-10, 0, DAY_S, 900 * DAY_S)),
        )

    def _night(self) -> Step:
        tick = Tick(self._maybe(0.5, (0, HOUR_S, 30 * DAY_S)), key=self._key())
        dream = Dream(
            session=self._maybe(0.2, ("s-1",)),
            dry_run=self._rng.random() < 0.2,
            max_groups=self._one(10, 10, 1, 0),
            sees=self._some(("private_scratch", "sealed"), 2),
            secrecies=self._maybe(0.3, (("public", "secret"),)),
            promote=self._one(True, True, False),
            key=self._key(),
        )
        choice = Choice(
            self._one("full", "incremental", "incremental", "selective"),
            self._one(0, 0, 1),
            self._one(0, 0, 1),
            self._one(True, False),
        )
        consolidate = ConsolidateAll(choice, dry_run=self._rng.random() < 0.2, key=self._key())
        return self._one_of(*[Changing(tick), Changing(dream)] * 2, Changing(consolidate))

    def _loss(self) -> Step:
        is_dry = self._rng.random() < 0.2
        forget = ForgetSome(
            self._numbers(2),
            raw_numbers=self._numbers(1),
            store=self._maybe(0.1, ("procedural", WORKING)),
            span_s=self._maybe(0.1, (3,)),
            session=self._maybe(0.2, ("s-1",)),
            cascade=self._one(True, False),
            dry_run=is_dry,
            key=None if is_dry else self._key(),
        )
        mode = ChangeMode(self._one("perfect", "human"), scope=self._maybe(0.7, (self._some(STORES, 2),)))
        restore = RestoreSome(tuple(range(0, NUMBERS, self._one(1, 2))))
        return self._one_of(*[Changing(forget)] * 2, Changing(restore), Changing(mode))

    def _carry(self) -> Step:
        return Carry(
            into=self._one(None, *NAMES),
            stores=self._maybe(0.5, (self._some(STORES, 3), STORES)),
            has_raw=self._one(True, False),
            strategy=self._one("merge", "merge", "merge", "replace"),
            resolution=self._one("keep_existing", "keep_imported", "keep_newer"),
            dry_run=self._rng.random() < 0.2,
        )
