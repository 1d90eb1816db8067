"""What `doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from cerememory.config.settings import Settings
from cerememory.storage.datadir import Owner


class Verdict(NamedTuple):
    """`warn` is what works now and should be looked at."""

    status: Literal["ok", "warn", "fail"]
    detail: str


@dataclass(frozen=True, slots=True)
class Patient:
    """A data dir that is there, and who owns it at the moment."""

    settings: Settings
    owner: Owner | None


def ok(detail: str) -> Verdict:
    return Verdict("ok", detail)


def warn(detail: str) -> Verdict:
    return Verdict("warn", detail)


def fail(detail: str) -> Verdict:
    return Verdict("fail", detail)
