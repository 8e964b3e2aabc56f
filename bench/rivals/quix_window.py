"""Quix Streams: one sliding window of an hour, counting events per user, and nothing else.

As its documentation writes it, as the application of quix.py. Its window takes the event time from the records, which
are the same Avro user events that our worker reads; decoding them is the same library's work for both.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bench.job import Job
from bench.rivals.quix import Progress, application
from schemas.codec import codec


def main(job: Job) -> None:
    """Count all records of the job."""
    progress = Progress(job)
    app = application(job, progress)
    decode, start = codec("user_event").decode, progress.watch.start

    def event_time(value: Any, headers: Any, timestamp: float, kind: Any) -> int:
        start()
        return int(decode(value)["event_time_ms"])

    topic = app.topic(
        job.deployment.topic("user-events"),
        key_deserializer="bytes",
        value_deserializer="bytes",
        timestamp_extractor=event_time,
    )
    app.dataframe(topic).sliding_window(duration_ms=timedelta(hours=1)).count().current()
    app.run()


if __name__ == "__main__":
    main(Job.from_argv())
