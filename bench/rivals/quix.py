"""Quix Streams: a stateful update with a changelog, as its documentation writes it.

Tuned: bytes in state (no JSON), log level WARNING, larger fetches, a lingering compressing producer; the commit
interval stays at its default of 5 s, so that state and changelog are written once per key and interval, not per record:
its most favourable setting, at the price of results that become visible every 5 s. Option `exactly_once` of the job
turns its transactions on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quixstreams import Application, State

from bench.job import Job, Stopwatch
from bench.plain_fold import counted, new_row

__all__ = ["Progress", "application"]


class Progress:
    """Counts processed records, and reports once the checkpoint behind the last one is committed."""

    def __init__(self, job: Job) -> None:
        self._job, self._left = job, job.records
        self.watch = Stopwatch()
        self.app: Application | None = None
        self.changelog = ""

    def __call__(self, topic: str, partition: int, offset: int) -> None:
        """Count one record; after the last the application stops behind a checkpoint."""
        self._left -= 1
        if self._left == 0:
            assert self.app is not None
            context: Any = self.app._processing_context
            commit = context.commit_checkpoint

            def commit_and_report(force: bool = False, revoking: bool = False) -> None:
                commit(force=True, revoking=revoking)
                context.commit_checkpoint = commit
                self._job.report(**self.watch.read(), records=self._job.records, changelog=self.changelog)

            context.commit_checkpoint = commit_and_report
            self.app.stop()


def application(
    job: Job, progress: Progress, *, most_queued_messages: int = 100_000, exactly_once: bool = False
) -> Application:
    """The tuned application that every rival of Quix Streams runs as; `progress` learns of its records.

    `most_queued_messages` bounds the producer's queue (`queue.buffering.max.messages`). Each rival says how many it is
    best served with: quix.py, whose checkpoint sends the rows of all keys at once, has room for five times as many as
    librdkafka's default, so that it never waits for the broker in the middle of one; quix_window.py keeps the default.
    """
    app = Application(
        broker_address=job.bootstrap_servers,
        consumer_group=f"{job.prefix}quix",
        auto_offset_reset="earliest",
        state_dir=Path(job.folder) / "quix",
        loglevel="WARNING",
        processing_guarantee="exactly-once" if exactly_once else "at-least-once",
        consumer_extra_config={"queued.min.messages": 100_000, "fetch.wait.max.ms": 100},
        producer_extra_config={
            "linger.ms": 20,
            "batch.size": 1 << 19,
            "compression.type": "lz4",
            "queue.buffering.max.messages": most_queued_messages,
        },
        on_message_processed=progress,
    )
    progress.app = app
    return app


def main(job: Job) -> None:
    """Count all records of the job."""
    progress = Progress(job)
    exactly_once = bool(job.options.get("exactly_once"))
    app = application(job, progress, most_queued_messages=500_000, exactly_once=exactly_once)
    topic = app.topic(job.topic, key_deserializer="bytes", value_deserializer="bytes")
    start = progress.watch.start

    def count(value: bytes, state: State) -> None:
        start()
        seen, last = counted(state.get_bytes("row"))
        state.set_bytes("row", new_row(seen + 1, last + 1))  # offsets are Quix's own business: it skips replays itself

    app.dataframe(topic).update(count, stateful=True)
    progress.changelog = app._topic_manager.changelog_topics_list[0].name
    app.run()


if __name__ == "__main__":
    main(Job.from_argv())
