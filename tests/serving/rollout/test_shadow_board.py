"""Sums of a host's scoring processes in one mapped file."""

from __future__ import annotations

import os
import socket

import pytest

from domain.shadow import Pair, ShadowSums
from schemas.errors import Unavailable
from serving.rollout.shadow_board import ShadowBoard

PAIR = Pair("00000000000000aa", 7, "ffffffffffffffff")
SEEN = ShadowSums(1, 2, 3, 4, 0.5, -0.25, 0.125, -0.5, 1.5, 2.5)


def killed_while(tmp_path, work) -> None:
    """Run `work` on a board in another process, which then dies without a word."""
    process = os.fork()
    if not process:
        try:
            work(ShadowBoard(tmp_path))
        finally:
            os._exit(0)
    os.waitpid(process, 0)


def test_sums_of_all_processes_add_up(tmp_path) -> None:
    """Every row counts, to the last bit, whoever reads; a row that never counted adds nothing."""
    board = ShadowBoard(tmp_path)
    rows = [board.claim() for _ in range(3)]
    rows[0].add(PAIR, SEEN)
    rows[0].add(PAIR, SEEN)
    rows[1].add(PAIR, SEEN)
    assert ShadowBoard(tmp_path).sums(PAIR) == SEEN + SEEN + SEEN


def test_a_dead_process_leaves_its_sums(tmp_path) -> None:
    """They count after its death, and go on in its row, which the next process takes over, once."""
    killed_while(tmp_path, lambda board: board.claim().add(PAIR, SEEN))
    board = ShadowBoard(tmp_path)
    assert board.sums(PAIR) == SEEN
    heir = board.claim()
    assert heir.seen == (PAIR, SEEN)
    heir.add(PAIR, SEEN)
    assert board.sums(PAIR) == SEEN + SEEN


def test_sums_start_again_with_another_pair(tmp_path) -> None:
    """Of another build, or beside another live version, nothing that was counted before is true."""
    board = ShadowBoard(tmp_path)
    row = board.claim()
    for pair in (PAIR, PAIR._replace(build_epoch=8), PAIR._replace(live="00000000000000bb")):
        row.add(pair, SEEN)
        assert board.sums(pair) == SEEN
    assert board.sums(PAIR) == ShadowSums()


def test_a_released_row_keeps_its_sums(tmp_path) -> None:
    """A process that ends in good order takes nothing with it."""
    row = ShadowBoard(tmp_path).claim()
    row.add(PAIR, SEEN)
    row.release()
    assert ShadowBoard(tmp_path).sums(PAIR) == SEEN


def test_another_hosts_sums_are_cleared(tmp_path, monkeypatch) -> None:
    """A data folder that came from another host brings none of its sums, which that host reports itself."""
    first = ShadowBoard(tmp_path)
    first.claim().add(PAIR, SEEN)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    moved = ShadowBoard(tmp_path)
    assert moved.node != first.node
    assert moved.sums(PAIR) == ShadowSums()


def test_rows_run_out(tmp_path) -> None:
    """The 65th process is told so."""
    board = ShadowBoard(tmp_path)
    for _ in range(64):
        board.claim()
    with pytest.raises(Unavailable, match="64 processes"):
        board.claim()
