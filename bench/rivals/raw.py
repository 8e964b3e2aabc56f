"""No framework: confluent-kafka `consume`, a dict, `produce`, one rocksdict WriteBatch; no transaction.

The limit of what one core does in Python with these libraries: one state row and one changelog record per source
record, offsets committed after the changelog is acknowledged. What it leaves out is what the lane is for: fencing,
recovery, rebalances, one atomic cut of rows and offset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Producer
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch

from bench.job import Job, Stopwatch
from bench.plain_fold import counted, new_row

_BATCH: Final = 2048
_COMMIT_EVERY: Final = 16
#: `consume` waits this long for a full batch: no longer, or the last records wait for it.
_WAIT_S: Final = 0.02


def main(job: Job) -> None:
    """Count all records of the job."""
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": f"{job.prefix}raw",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "linger.ms": 20,
            "batch.size": 1 << 19,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 500_000,
        }
    )
    consumer.subscribe([job.topic])
    stores: dict[int, Rdict] = {}
    watch, done, batches = Stopwatch(), 0, 0
    while done < job.records:
        messages = consumer.consume(_BATCH, timeout=_WAIT_S)
        if not messages:
            continue
        watch.start()
        by_partition: dict[int, list[Any]] = {}
        for message in messages:
            by_partition.setdefault(message.partition(), []).append(message)
        for partition, some in by_partition.items():
            if partition not in stores:
                stores[partition] = Rdict(str(Path(job.folder) / f"raw-{partition}.db"), _options())
            _apply(producer, job.deployment.changelog("items"), partition, stores[partition], some)
        producer.poll(0)
        done += len(messages)
        batches += 1
        if batches % _COMMIT_EVERY == 0:
            producer.flush()
            consumer.commit(asynchronous=True)
    producer.flush()
    consumer.commit(asynchronous=False)
    job.report(**watch.read(), records=done, changelog=job.deployment.changelog("items"))
    consumer.close()


def _options() -> Options:
    """As the lane's stores: 16 MiB memtables, lz4, a 64 MiB block cache, Bloom filters of 10 bits."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(16 << 20)
    options.set_max_write_buffer_number(3)
    options.set_compression_type(DBCompressionType.lz4())
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(64 << 20))
    blocks.set_bloom_filter(10.0, False)
    options.set_block_based_table_factory(blocks)
    return options


def _apply(producer: Producer, changelog: str, partition: int, store: Rdict, messages: list[Any]) -> None:
    keys = list({message.key(): None for message in messages})
    state = {key: counted(row) for key, row in zip(keys, store.get(keys), strict=True)}
    batch = WriteBatch(raw_mode=True)
    for message in messages:
        key = message.key()
        count, last = state[key]
        if message.offset() > last:
            state[key] = count + 1, message.offset()
            row = new_row(count + 1, message.offset())
            batch.put(key, row)
            producer.produce(changelog, row, key, partition=partition)
    store.write(batch)


if __name__ == "__main__":
    main(Job.from_argv())
