"""Which process makes an artifact, when several share one store."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from pipeline import endings
from safemerge.errors import UserError

POLL_S = 0.5  # between looks at a lock that another process holds
LEASE_S = 120.0  # after which a lease that nobody renews may be taken; it is renewed every third of it
NONE_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


def _lost(_: object) -> None:
    """Another process took the lease, which this one had not renewed for too long: it ends, the work is the other's."""
    for end_workers in list(endings.at_once):
        end_workers()
    sys.stderr.write(
        "another run has taken over, as this one stood still for minutes; rerun the same command to resume\n"
    )
    sys.stderr.flush()
    os._exit(1)


def new(path: Path, kind: str) -> BaseFileLock:
    """A lock that is not held yet.

    kind: `native`, by the file system (flock), which ends with the process that holds it; `lease`, a file that its holder
    renews, for network file systems without a lock daemon.
    """
    if kind == "lease":
        return SoftFileLease(path, lease_duration=LEASE_S, on_compromise=_lost)
    return FileLock(path)


def taken(lock: BaseFileLock) -> bool:
    """Take the lock, if nobody has it.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NONE_HERE:
            raise
        raise UserError(
            f"{Path(lock.lock_file).parent} is on a file system without locks ({error.strerror}): start its lock daemon "
            "(NFS: rpc.statd, or mount with local_lock=none), or set locks=lease in all runs that share this store"
        ) from error
    return True


@contextlib.contextmanager
def some(
    paths: Sequence[Path], kind: str, done: Callable[[], bool], waiting: Callable[[], None]
) -> Iterator[set[Path]]:
    """Hold those of the locks that nobody else holds, at least one; none when `done` says that there is no more need.

    No lock is held while waiting, so processes that want the same ones cannot block each other.

    waiting: called once if all are held by others.
    """
    locks = {path: new(path, kind) for path in paths}
    told = False
    with contextlib.ExitStack() as stack:
        held = set()
        while True:
            for path, lock in locks.items():
                if taken(lock):
                    stack.callback(lock.release)
                    held.add(path)
            if held or done():
                break
            if not told:
                waiting()
                told = True
            time.sleep(POLL_S)
        yield held
