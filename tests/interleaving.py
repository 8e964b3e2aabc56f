"""Real code of a writer and its readers, run in threads of which one moves at a time, in an order that a seed decides.

Each access to shared memory is a step, after which another thread may go on; a thread may also be left standing for
many steps, as a stopped process would be.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class Schedule:
    """Runs functions to their ends, one step of one of them at a time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._turns: dict[int, threading.Semaphore] = {}
        self._standing: dict[int, int] = {}
        self._mine = threading.local()
        self.failures: list[BaseException] = []

    def run(self, functions: list[Callable[[], None]]) -> None:
        """Run all of them; raises the first exception of any."""
        threads = [threading.Thread(target=self._run, args=(number, each)) for number, each in enumerate(functions)]
        self._turns = {number: threading.Semaphore(0) for number in range(len(functions))}
        self._standing = dict.fromkeys(self._turns, 0)
        for thread in threads:
            thread.start()
        self._turns[0].release()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def step(self) -> None:
        """Called by what runs: another may go on here."""
        mine = getattr(self._mine, "number", None)
        if mine is None or self._random.random() < 0.6:
            return
        if self._random.random() < 0.02:
            self._standing[mine] = self._random.randrange(20, 400)
        self._pass_on(mine)

    def _pass_on(self, mine: int) -> None:
        for number in self._standing:
            self._standing[number] = max(0, self._standing[number] - 1)
        ready = [number for number in self._turns if not self._standing[number]] or list(self._turns)
        chosen = self._random.choice(ready)
        if chosen != mine:
            self._turns[chosen].release()
            self._turns[mine].acquire()

    def _run(self, number: int, function: Callable[[], None]) -> None:
        self._mine.number = number
        self._turns[number].acquire()
        try:
            function()
        except BaseException as error:
            self.failures.append(error)
        del self._turns[number], self._standing[number]
        if self._turns:
            self._random.choice(list(self._turns.values())).release()


class Watched:
    """An array whose every access is a step; rows are written word by word."""

    def __init__(self, array: np.ndarray, step: Callable[[], None]) -> None:
        self._array, self._step = array, step

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self._array.shape

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return self._array.nbytes

    def __getitem__(self, at: Any) -> Any:
        self._step()
        return self._array[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        target = self._array[at]
        if isinstance(target, np.ndarray) and target.ndim == 1 and np.ndim(at) == 0:
            for word in range(len(target)):
                self._step()
                target[word] = value[word]
        else:
            self._step()
            self._array[at] = value
