"""Put files and folders into place as a whole: whoever looks sees the old contents or the new, never a part.

Decisions:

* Everything is written next to its destination under a name that begins with ``.ampc-`` and with a digest of
  the destination, so that what a killed run left behind is found and removed by the next run that writes
  there.  A running writer holds a lock on what it writes, and only unlocked leftovers are removed.
* A bundle that exists is exchanged for the new one in one system call where the system has one (Linux);
  elsewhere by two renames, and a kill between them leaves the old bundle beside its place under its
  ``.ampc-`` name.
* A new file gets the mode that the umask gives, set by the kernel at creation: the umask cannot be read
  without changing it for other threads.  A replaced file passes its mode on and is private until it is
  complete.
* The destination is never opened: links and special files there are refused, and a rename follows no link
  anyway.
* Pages of a mapping are released once they are written, so that writing 20 GB does not make 20 GB resident.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from compiler.errors import InputError
from compiler.ir.splice import Buffer, as_bytes

PREFIX = ".ampc-"
"""What names of unfinished files and folders begin with."""

BUNDLE_MARK = "ampc.json"
"""The file that makes a folder a bundle, which may be replaced."""

_BLOCK = 16 << 20
"""Bytes written between two releases of mapped pages."""

_WORTH_RELEASING = 64 << 10
"""Bytes of a block whose pages are worth a system call."""


def write_atomic(path: str | os.PathLike[str], chunks: Iterable[Buffer]) -> int:
    """Write ``chunks`` to the file at ``path``, which has its old contents or all the new ones at any moment.

    Returns the bytes written.  Raises ``InputError`` when the path is a link, a folder or a special file, or
    when the system refuses (disk full, no permission); nothing is left behind then, whatever was raised.
    """
    target = _absolute(path)
    with failures(target):
        old = _replaceable_file(target)
        temporary, fd = _claim_file(target, 0o666 if old is None else 0o600)
        try:
            with open(fd, "wb", buffering=1 << 20) as file:
                written = _write(file, chunks)
                if old is not None:
                    os.chmod(temporary, stat.S_IMODE(old.st_mode))
                file.flush()
                os.fsync(file.fileno())
                _replaceable_file(target)
                os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
        _remove_leftovers(target)
    return written


def _write(file: BinaryIO, chunks: Iterable[Buffer]) -> int:
    written = resident = 0
    recent: list[memoryview] = []
    for chunk in chunks:
        view = as_bytes(chunk)
        for start in range(0, view.nbytes, _BLOCK):
            block = view[start : start + _BLOCK]
            file.write(block)
            recent.append(block)
            resident += block.nbytes
            if resident >= _BLOCK:
                file.flush()
                _release(recent)
                resident = 0
                recent.clear()
        written += view.nbytes
    return written


def _release(blocks: list[memoryview]) -> None:
    """Let the system take back the pages of read-only file mappings; used again, they are read again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    import numpy as np

    for block in blocks:
        mapping: Any = block.obj
        if block.nbytes < _WORTH_RELEASING or not isinstance(mapping, mmap.mmap):
            continue
        whole = memoryview(mapping)
        if not whole.readonly:  # a private mapping would lose what was written to it
            continue
        at = np.frombuffer(block, np.uint8).ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
        first = at // mmap.PAGESIZE * mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, first, at + block.nbytes - first)


def _absolute(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise InputError(
            "the output has no usable path", where=repr(text), hint="give the path of a file or folder"
        )
    return Path(os.path.abspath(text))


def _replaceable_file(target: Path) -> os.stat_result | None:
    """Return the status of the regular file at ``target``, None when nothing is there; else raise."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
        raise _not_writable(target, f"{kind} is there, and ampc replaces only regular files")
    return status


def _not_writable(target: Path, why: str, *, hint: str = "") -> InputError:
    return InputError(
        "the output cannot be written", where=str(target), why=why, hint=hint or "choose another output path"
    )


@contextlib.contextmanager
def failures(target: Path) -> Iterator[None]:
    """Turn the system's refusals into ``InputError`` that names ``target``."""
    hints = {
        errno.ENOSPC: "free some space, or write to another disk",
        errno.EDQUOT: "free some of your quota, or write to another disk",
        errno.EBUSY: "this is a mount point: name a folder inside it",
        errno.EXDEV: "this is a mount point: name a folder inside it",
        errno.ENOENT: "create the folder that it is to be in first",
    }
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise _not_writable(target, why, hint=hints.get(error.errno or 0, "")) from error


def _stem(target: Path) -> str:
    return PREFIX + hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest() + "-"


def _temporary(target: Path) -> Path:
    return target.with_name(_stem(target) + secrets.token_hex(8))


def _claim_file(target: Path, mode: int) -> tuple[Path, int]:
    """Create and lock a file beside ``target``; returns its path and descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = _temporary(target)
        fd = os.open(path, flags, mode)
        try:
            if _lock(fd, wait=True) is None or _is_at(fd, path):
                return path, fd
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        os.close(fd)  # another run took it for a leftover before it was locked


def _lock(fd: int, *, wait: bool) -> bool | None:
    """Lock an open file or folder against removal; True: done, False: it is locked, None: not supported."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None  # some network file systems have no locks
    return True


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs left beside ``target``; what is locked, or cannot be removed, stays."""
    stem = _stem(target)
    for name in sorted(os.listdir(target.parent)):
        if name.startswith(stem):
            with contextlib.suppress(
                OSError
            ):  # the output is complete: a leftover that resists is no failure
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if _lock(fd, wait=False) is True:
            _remove(path)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable where the system can."""
    with contextlib.suppress(OSError):  # not every file system (nor Windows) can sync a folder
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class AtomicFolder:
    """A context in which a folder is filled, and at whose end it is put into place as a whole.

    ``with AtomicFolder("out") as folder:`` gives the path of a new folder beside ``out``.  When the block
    ends well, it becomes ``out``; when it raises, it is removed and ``out`` is as before.  ``out`` may be
    missing, empty, or a bundle (it holds ``ampc.json``), which is replaced; else entering raises
    ``InputError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the destination; nothing is touched yet."""
        self.target = _absolute(path)
        self._folder = self.target
        self._fd = -1

    def __enter__(self) -> Path:
        with failures(self.target):
            _replaceable_folder(self.target)
            self._folder, self._fd = _claim_folder(self.target)
        return self._folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with failures(self.target):
                    self._commit()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)  # after an exchange, the old bundle
            os.close(self._fd)
        if error is None:
            with failures(self.target):
                _remove_leftovers(self.target)

    def _commit(self) -> None:
        _sync_tree(self._folder)
        old = _replaceable_folder(self.target)
        if old is not None:
            os.chmod(self._folder, stat.S_IMODE(old.st_mode))
        if old is None or not os.listdir(self.target):
            os.rename(self._folder, self.target)
        elif not _exchange(self._folder, self.target):
            self._replace_in_two_steps()
        _sync_folder(self.target.parent)

    def _replace_in_two_steps(self) -> None:
        aside = _temporary(self.target)
        fd = os.open(self.target, os.O_RDONLY)
        try:
            _lock(fd, wait=True)  # aside, it must not pass for a leftover
            os.rename(self.target, aside)
            try:
                os.rename(self._folder, self.target)
            except BaseException:
                os.rename(aside, self.target)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            os.close(fd)


def _replaceable_folder(target: Path) -> os.stat_result | None:
    """Return the status of the empty folder or bundle at ``target``, None when nothing is."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        raise _not_writable(target, "something is there that is no folder")
    names = os.listdir(target)
    mark = target / BUNDLE_MARK
    if names and not (mark.is_file() and not mark.is_symlink()):
        raise _not_writable(target, f"the folder holds files and is no ampc bundle (it has no {BUNDLE_MARK})")
    return status


def _claim_folder(target: Path) -> tuple[Path, int]:
    """Create and lock a folder beside ``target``; returns its path and descriptor."""
    while True:
        path = _temporary(target)
        path.mkdir()
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        if _lock(fd, wait=True) is None or _is_at(fd, path):
            return path, fd
        os.close(fd)


def _sync_tree(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        for name in files:
            fd = os.open(os.path.join(path, name), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        _sync_folder(Path(path))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False when the system or the file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(current, os.fsencode(one), current, os.fsencode(other), ctypes.c_uint(swap)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(other))
