"""Repair: whatever follows from other rows is mended, and nothing else is touched by a byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cerememory import failpoints
from cerememory.domain.audit_chain import GENESIS, parse_line
from cerememory.errors import AuditBroken, CerememoryError
from cerememory.failpoints import InjectedCrash
from cerememory.storage import fsck_index, reindex, repair
from cerememory.storage.fsck_rows import DERIVED, FOLLOWING
from cerememory.storage.keys import (
    DEFAULT_NAMESPACE,
    NAMESPACE_BYTES,
    Table,
    counters_key,
    key,
    pack_namespace,
    system_key,
)
from cerememory.storage.rows import Counters, dump_counters, parse_counters, parse_head, parse_log_row
from cerememory.storage.text_index import TextIndex
from cerememory.storage.undo_rows import rows_prefix
from tests.support.committing import an_id
from tests.support.engine import NOW
from tests.unit.storage.test_fsck import BROKEN, COUNTERS, HEAD, LATER, ROWS, WORK, Changes, DataDir

REPAIRED = frozenset(  # whatever the product thinks of it: all others say something by themselves
    table.value
    for table in (
        *(Table.GROUPS, Table.LIKENESS, Table.EDGES_BY_TARGET, Table.ARCHIVED_BY_EXPIRY),
        *(Table.RAW_BY_SESSION, Table.RAW_BY_TIME, Table.RAW_PENDING, Table.IDEMPOTENCY_BY_EXPIRY),
        *(Table.COUNTERS, Table.LAST_NAMESPACE),
    )
)
AUDITED = frozenset({Table.LOG.value, Table.HEAD.value})
WITHOUT_IMPORT = rows_prefix(DEFAULT_NAMESPACE, an_id(88))  # what is kept of an import that isn't
OWN = [table for table in FOLLOWING if table not in DERIVED]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No owner will mend the index while it is waited for."""
    monkeypatch.setattr(fsck_index, "PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return DataDir.sound(tmp_path_factory.mktemp("repair")).index_path


@pytest.fixture
def data_dir(tmp_path: Path, indexed: Path) -> DataDir:
    return DataDir.sound(tmp_path, indexed)


def repaired(data_dir: DataDir, *, audited: bool = True) -> repair.Repair:
    return repair.repair(
        data_dir.storage,
        index_path=data_dir.index_path,
        spool_path=data_dir.index_path.parent,
        now=NOW,
        audited=audited,
    )


def table_of(row_key: bytes) -> bytes:
    return row_key[NAMESPACE_BYTES : NAMESPACE_BYTES + 1]


def own_rows(data_dir: DataDir) -> dict[bytes, bytes]:
    """All but what a repair may write."""
    rows = data_dir.storage.rows().items()
    return {
        row_key: value
        for row_key, value in rows
        if table_of(row_key) not in REPAIRED | AUDITED and not row_key.startswith(WITHOUT_IMPORT)
    }


def rows_of(table: Table) -> list[bytes]:
    """Of both namespaces, without what the table says of itself."""
    return [k for k in ROWS if table_of(k) == table.value and len(k) > NAMESPACE_BYTES + 1]


def without(table: Table) -> Changes:
    return dict.fromkeys(rows_of(table))


def with_strays(table: Table) -> Changes:
    """Rows of the right size that nothing asks for, in both namespaces; times in them have yet to come."""
    size = len(rows_of(table)[0]) - NAMESPACE_BYTES - 1
    return {
        key(namespace, table, bytes([n + 160]) * (size - 16), an_id(n)): b"\1"
        for namespace in (DEFAULT_NAMESPACE, WORK)
        for n in (88, 89)
    }


def with_other_values(table: Table) -> Changes:
    return {row_key: ROWS[row_key] + b"?" for row_key in rows_of(table)}


@pytest.mark.parametrize("damage", [without, with_strays, with_other_values])
@pytest.mark.parametrize("table", [table for table in FOLLOWING if table in DERIVED])
def test_a_table_that_follows_from_others_is_made_what_it_was(
    data_dir: DataDir, table: Table, damage: Callable[[Table], Changes]
) -> None:
    data_dir.storage.commit(damage(table))
    before, found = own_rows(data_dir), data_dir.findings()
    assert {finding.part for finding in found} == {table.name.lower()}
    assert repaired(data_dir).rows == {table.name.lower(): len(found)}
    assert {k: v for k, v in data_dir.storage.rows().items() if table_of(k) == table.value} == {
        k: v for k, v in ROWS.items() if table_of(k) == table.value
    }
    assert own_rows(data_dir) == before
    assert data_dir.findings() == []


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_that_says_something_by_itself_is_touched(data_dir: DataDir, name: str) -> None:
    """Whatever is broken: rows of its own stay as they are, the audit log's file does, and nothing gets worse."""
    data_dir.change(BROKEN[name][0])
    log, before = data_dir.audit_path.read_bytes(), data_dir.storage.rows()
    own, found = own_rows(data_dir), {str(finding) for finding in data_dir.findings()}
    try:
        repaired(data_dir)
    except CerememoryError:
        assert "head" in name, "without a readable head there is nowhere to write"
        assert data_dir.storage.rows() == before
    assert own_rows(data_dir) == own
    assert data_dir.audit_path.read_bytes() == log
    remaining = data_dir.findings()
    assert {str(finding) for finding in remaining} <= found
    assert [finding for finding in remaining if finding.fix is not None] == []


def test_what_is_kept_of_an_import_that_is_not_goes(data_dir: DataDir) -> None:
    data_dir.change(BROKEN["something kept of an import that isn't"][0])
    assert repaired(data_dir).rows == {"undo": 1}
    assert data_dir.findings() == []
    assert [row_key for row_key in data_dir.storage.rows() if row_key.startswith(WITHOUT_IMPORT)] == []


def test_all_at_once_is_mended_in_one_transaction_that_the_audit_log_tells_of(data_dir: DataDir) -> None:
    damage: Changes = {COUNTERS: dump_counters(Counters.empty())}
    for table in DERIVED:
        damage = {**damage, **without(table)}
    data_dir.storage.commit(damage)
    commits = len(data_dir.storage.commits)
    found = repaired(data_dir)
    assert found.rows.keys() == {"counters", *(table.name.lower() for table in DERIVED)}
    assert found.index, "memories have got their neighbours back"
    assert len(data_dir.storage.commits) == commits + 1
    row = parse_log_row(
        max(data_dir.storage.rows().items(), key=lambda kv: (table_of(kv[0]) == Table.LOG.value, kv))[1]
    )
    entry = parse_line(row.lines)
    assert entry.operation == "maintenance.repair"
    assert entry.summary == {**found.rows, "text_index": True}
    assert data_dir.findings() == []


def test_what_is_sound_is_left_alone(data_dir: DataDir) -> None:
    before = data_dir.storage.rows()
    assert not repaired(data_dir)
    assert data_dir.storage.rows() == before


def test_counters_keep_what_cannot_be_counted(data_dir: DataDir) -> None:
    stored = parse_counters(ROWS[COUNTERS])
    stored.recalls, stored.last_dream_tick_at, stored.raw_records = 7, NOW, 99
    data_dir.storage.commit({COUNTERS: dump_counters(stored)})
    assert repaired(data_dir).rows == {"counters": 1}
    mended = parse_counters(data_dir.storage.rows()[COUNTERS])
    assert (mended.recalls, mended.last_dream_tick_at, mended.raw_records) == (7, NOW, 2)


def test_counters_that_cannot_be_read_are_made_anew(data_dir: DataDir) -> None:
    data_dir.storage.commit({COUNTERS: b"?", counters_key(WORK): b"?"})
    assert repaired(data_dir).rows == {"counters": 2}
    assert data_dir.storage.rows()[COUNTERS] == ROWS[COUNTERS]


def test_a_namespace_that_comes_next_gets_no_number_that_is_taken(data_dir: DataDir) -> None:
    data_dir.storage.commit({system_key(Table.LAST_NAMESPACE): pack_namespace(0)})
    assert repaired(data_dir).rows == {"namespaces": 1}
    assert data_dir.storage.rows()[system_key(Table.LAST_NAMESPACE)] == pack_namespace(WORK)


def test_a_row_that_may_be_wanted_stays_while_nobody_can_read_who_wants_it(data_dir: DataDir) -> None:
    content = key(DEFAULT_NAMESPACE, Table.CONTENT, an_id(1))
    data_dir.storage.commit({content: b"?"})
    repaired(data_dir)
    assert list(data_dir.index_path.parent.glob("index.new")) == []
    for table in (Table.GROUPS, Table.LIKENESS):
        assert {k for k in data_dir.storage.rows() if table_of(k) == table.value} >= set(rows_of(table))


@pytest.mark.parametrize("table", OWN)
def test_rows_of_their_own_that_are_gone_stay_findings(data_dir: DataDir, table: Table) -> None:
    data_dir.storage.commit(without(table))
    repaired(data_dir)
    assert not {k for k in data_dir.storage.rows() if table_of(k) == table.value and k in rows_of(table)}


def test_many_rows_go_in_pieces(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "PIECE", 2)
    data_dir.storage.commit({**without(Table.GROUPS), **without(Table.RAW_BY_TIME)})
    assert repaired(data_dir).rows == {"groups": len(rows_of(Table.GROUPS)), "raw_by_time": 3}
    assert data_dir.findings() == []


def test_a_head_that_somebody_else_wrote_is_not_sealed_by_the_way(data_dir: DataDir) -> None:
    data_dir.storage.commit(without(Table.GROUPS))
    before = data_dir.storage.rows()
    with pytest.raises(AuditBroken):
        repair.repair(
            data_dir.storage,
            index_path=None,
            spool_path=data_dir.index_path.parent,
            now=NOW,
            audited=True,
            head_key=b"k" * 32,
        )
    assert data_dir.storage.rows() == before


def test_without_an_audit_log_no_entry_is_written(data_dir: DataDir) -> None:
    data_dir.storage.commit(without(Table.GROUPS))
    repaired(data_dir, audited=False)
    before, after = (parse_head(rows[HEAD], GENESIS) for rows in (ROWS, data_dir.storage.rows()))
    assert after.audit_sequence == before.audit_sequence


@pytest.mark.parametrize("damage", ["a document too many", "a document too few", "damaged", "half of it gone"])
def test_the_text_index_is_built_again(data_dir: DataDir, damage: str) -> None:
    if damage == "damaged":
        (data_dir.index_path / "curated" / "meta.json").write_text("{")
    elif damage == "half of it gone":
        shutil.rmtree(data_dir.index_path / "raw")
    else:
        with closing(TextIndex.open(data_dir.index_path)) as index:
            gone = (DEFAULT_NAMESPACE, an_id(1))
            index.apply([], [gone], 0) if damage == "a document too few" else index.delete_store(0)
            index.commit()
    before = own_rows(data_dir)
    assert [finding.part for finding in data_dir.findings()].count("index") >= 1
    found = repaired(data_dir)
    assert (found.index, found.rows) == (True, {})
    assert own_rows(data_dir) == before
    assert data_dir.findings() == []


def test_an_index_is_built_anew_without_a_fault_and_says_how_far_it_is(data_dir: DataDir) -> None:
    seen: list[int] = []
    done, _aside = repair.rebuild_index(data_dir.index_path, data_dir.storage, seen.append)
    assert done == sum(seen) == reindex.record_count(data_dir.storage)
    assert data_dir.findings() == []


def test_what_is_no_directory_in_the_place_of_the_index_is_set_aside(data_dir: DataDir) -> None:
    shutil.rmtree(data_dir.index_path)
    data_dir.index_path.write_text("somebody's")
    assert [str(finding) for finding in data_dir.findings()] == [f"index: {data_dir.index_path} is no directory"]
    found = repaired(data_dir)
    aside = data_dir.index_path.with_name("index.aside-1")
    assert (found.index, found.aside) == (True, aside)
    assert aside.read_text() == "somebody's"
    assert data_dir.findings() == []


def test_an_index_that_lies_elsewhere_is_built_anew_there(data_dir: DataDir, tmp_path: Path) -> None:
    there = data_dir.index_path.rename(tmp_path / "there")
    data_dir.index_path.symlink_to(there)
    (there / "curated" / "meta.json").write_text("{")
    assert repaired(data_dir).index
    assert data_dir.index_path.is_symlink()
    assert (there / "curated" / "meta.json").read_text() != "{"
    assert data_dir.findings() == []


def test_an_index_that_is_not_kept_is_not_made(data_dir: DataDir) -> None:
    shutil.rmtree(data_dir.index_path)
    data_dir.storage.commit(without(Table.GROUPS))
    repair.repair(
        data_dir.storage, index_path=None, spool_path=data_dir.index_path.parent, now=LATER - 1, audited=True
    )
    assert not data_dir.index_path.exists()


def test_a_crash_between_rows_and_index_leaves_what_the_next_repair_mends(data_dir: DataDir) -> None:
    (data_dir.index_path / "curated" / "meta.json").write_text("{")
    data_dir.storage.commit(without(Table.GROUPS))
    failpoints.arm("repair.committed")
    with pytest.raises(InjectedCrash):
        repaired(data_dir)
    assert [finding.part for finding in data_dir.findings()] == ["index"]
    repaired(data_dir)
    assert data_dir.findings() == []
