"""Prefetch: a thread that makes the next batches while the device computes, a few ahead and no more."""

import atexit
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

AT_EXIT = 5.0  # seconds for a thread that waits for its source while the program ends
_END = object()
_RUNNING: weakref.WeakSet = weakref.WeakSet()


class Prefetch(Iterator):
    """Iterates `items` on a thread, at most `depth` ahead. What the thread raises is raised here, in its turn."""

    def __init__(self, items: Iterable, depth: int) -> None:
        self.ready: queue.Queue[Any] = queue.Queue(depth)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.work, args=(items,), name="jaxformers-prefetch", daemon=True)
        self.thread.start()
        _RUNNING.add(self)

    def work(self, items: Iterable) -> None:
        """What the thread does."""
        try:
            for item in items:
                if not self.put((item, None)):
                    return
            self.put((_END, None))
        except BaseException as error:  # it belongs to whoever asks for the next item
            self.put((_END, error))

    def put(self, item: Any) -> bool:
        """Wait for room; False once nobody will ask any more."""
        while not self.stopped.is_set():
            try:
                self.ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Any:
        if self.stopped.is_set():
            raise StopIteration
        item, error = self.ready.get()
        if item is not _END:
            return item
        self.stopped.set()
        if error is not None:
            raise error
        raise StopIteration

    def close(self, patience: float | None = None) -> None:
        """Stop the thread and wait for it, `patience` seconds at most; what it had made is dropped."""
        self.stopped.set()
        if self.thread.is_alive():  # joining one that has ended fails while the interpreter ends
            self.thread.join(patience)


@atexit.register
def close_all() -> None:
    """End every thread before the interpreter does: one that is inside jax at that moment would crash the process."""
    for one in list(_RUNNING):
        one.close(AT_EXIT)
