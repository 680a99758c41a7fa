"""Runs numba kernels on several threads, as many as torch uses.

The kernels release the interpreter's lock, so plain Python threads are enough, and none of the threading layers of
`numba.prange` is needed: the one that is always there aborts the process when two Python threads call it at once.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_pool: ThreadPoolExecutor | None = None


def run_tasks(kernel: Callable[..., None], tasks: int, *arguments: Any) -> None:
    """Call `kernel(task, *arguments)` for every task in range(tasks), on at most `torch.get_num_threads()` threads.

    Tasks must write to disjoint memory; which thread runs one, and when, is undefined.
    """
    threads = min(torch.get_num_threads(), tasks)
    todo = itertools.count()  # its next() is atomic

    def work() -> None:
        while (task := next(todo)) < tasks:
            kernel(task, *arguments)

    others = [_shared_pool().submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kgt")
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # threads do not survive a fork
