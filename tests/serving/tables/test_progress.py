from __future__ import annotations

import threading
from pathlib import Path

from serving.feeding.state import StateFolder
from serving.feeding.store_writer import StoreWriter
from serving.tables.progress import Progress, Token
from serving.tables.store import TablePartition
from tests.serving.conftest import user_rows, watermark_row


def test_a_token_is_reached_when_the_rows_of_its_record_are(tmp_path: Path) -> None:
    """Waiting ends as soon as the watermark passes the token's offset, at once where it has, at the deadline if not."""
    store = StateFolder(tmp_path / "serving").open_or_create()[1]
    writer, progress, now_s = StoreWriter(store), Progress(), Progress().monotonic_s()
    token = Token(0, 8)  # watermark_row says that offsets below 9 are applied
    assert not progress.wait_for(store, token, now_s)

    def apply() -> None:
        (user_keys, heads), (mark_keys, marks) = user_rows(1, [5]), watermark_row()
        writer.apply(TablePartition("users", 0), [*user_keys, *mark_keys], [*heads, *marks], 2)

    timer = threading.Timer(0.05, apply)
    timer.start()
    assert progress.wait_for(store, token, now_s + 30)
    timer.join()
    assert progress.reached(store, token) and progress.wait_for(store, token, 0)
    assert not progress.reached(store, Token(0, 9)) and not progress.reached(store, Token(1, 0))
    store.close()
