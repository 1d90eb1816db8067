"""Who may do what: the roles of keys, what an operation needs, and the one decision between the two.

    read    finds and looks at memories
    write   also stores, changes and forgets them
    admin   also takes archives out and in, and sets what is for everybody

Every surface asks `Grant`, whatever it speaks; none decides by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cerememory.errors import Forbidden
from cerememory.protocol.namespaces import HEADER


class Role(StrEnum):
    """What a key may do; each role may do what those before it may."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: Role) -> bool:
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Needs:
    """What something asks of a key: this role or a higher one; `is_global`: to be for all namespaces, too."""

    role: Role
    is_global: bool = False


READ, WRITE, ADMIN = (Needs(role) for role in Role)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do: `role`, in the `namespace` that its key is for, or in all (None).

    `caller` tells callers apart: a digest of the key, never the key.
    """

    role: Role
    namespace: str | None
    caller: str

    def check(self, needs: Needs, what: str) -> None:
        """Raise `Forbidden`, which says what `what` needs."""
        if not self.role.includes(needs.role):
            raise Forbidden(f"{what}: needs a key with the role {needs.role}, this one has {self.role}")
        if needs.is_global and self.namespace is not None:
            raise Forbidden(f"{what}: needs a key for all namespaces, this one is for {self.namespace!r} alone")

    def namespace_for(self, asked: str | None) -> str | None:
        """The namespace that a request is about, None for the default one. A key for one needn't name it.

        Raises `Forbidden` for another than the key's.
        """
        if self.namespace is None or asked == self.namespace:
            return asked
        if asked is not None:
            raise Forbidden(f"{HEADER}: this key is for the namespace {self.namespace!r} alone")
        return self.namespace


EVERYTHING = Grant(Role.ADMIN, None, "open")  # of everybody, while no key is asked for
