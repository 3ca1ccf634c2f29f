"""A queue of the field on SQLite, in a process of its own: how long it takes to keep so many payloads.

Run by Python of the rivals' environment: `rival_queues.py NAME FOLDER BYTES`. Each line on stdin is "producers
entries"; the answer is the seconds. Every queue commits each payload by itself, WAL, synchronous FULL: nothing that was
kept is lost when the power goes.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

Put = Callable[[bytes], object]


def persist_queue(folder: Path) -> Put:
    import persistqueue

    made = persistqueue.SQLiteQueue(str(folder), auto_commit=True, multithreading=True, timeout=60)
    made._putter.execute("PRAGMA synchronous = FULL")
    assert made._putter.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    return made.put


def litequeue(folder: Path) -> Put:
    import litequeue as lib

    made = lib.LiteQueue(str(folder / "queue.db"))
    made.conn.execute("PRAGMA synchronous = FULL")  # its own NORMAL loses what was acknowledged
    lock = threading.Lock()  # one connection, as its author advises; it is not made for two threads at once

    def put(payload: bytes) -> None:
        with lock:
            made.put(payload.decode())

    return put


def huey(folder: Path) -> Put:
    from huey.storage import SqliteStorage

    return SqliteStorage("bench", filename=str(folder / "huey.db"), fsync=True, timeout=60).enqueue


def spend(put: Put, payload: bytes, producers: int, entries: int) -> float:
    """Return the seconds that so many producers need to keep so many payloads together."""
    if producers == 1:
        began = time.perf_counter()
        for _ in range(entries):
            put(payload)
        return time.perf_counter() - began
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threads = [threading.Thread(target=_produce, args=(put, waiting)) for _ in range(producers)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    for item in [payload] * entries + [None] * producers:
        waiting.put(item)
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _produce(put: Put, waiting: "queue.SimpleQueue[bytes | None]") -> None:
    while (payload := waiting.get()) is not None:
        put(payload)


def main(name: str, folder: str, size: str) -> None:
    """Answer until stdin ends."""
    put = {"persist-queue": persist_queue, "litequeue": litequeue, "huey": huey}[name](Path(folder))
    payload = b"x" * int(size)
    for line in sys.stdin:
        producers, entries = map(int, line.split())
        print(spend(put, payload, producers, entries), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
