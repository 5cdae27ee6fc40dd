"""One process at a time: a file that the system keeps for a process until it ends, however it may."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Answers of file systems that cannot lock."""


def hold(path: Path) -> bool:
    """Keeps a file for this process until it ends; a kill frees it too, and child processes do not inherit it.

    The lock is lost when any descriptor of the file is closed in this process: nothing else should ever open it.

    Args:
        path: of the file, which is created when missing and stays behind, empty; its folder has to be there.

    Returns:
        False if another process holds it. True if this one does now, or did before, or where there are no locks.

    Raises:
        OSError: if the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:
        return True
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # stays open for good
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process, which may lock again what it has
    except (BlockingIOError, PermissionError):  # systems differ in how they say it
        os.close(descriptor)
        return False
    except OSError as error:
        os.close(descriptor)
        if error.errno in _NO_LOCKS:
            return True
        raise
    return True
