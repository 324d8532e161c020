"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import filelock

from emorl.errors import InputError


@contextmanager
def write_whole(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` that takes its name when the block ends without an error.

    Args:
        path: what to write; its folder must exist.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and overwrite is off, or the system refuses to write.
    """
    temporary = None
    try:
        if overwrite and path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device stays one
            with path.open("wb") as stream:
                yield stream
            return
        if path.is_symlink():  # what it points to is written, and the link stays
            path = Path(os.path.realpath(path))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(f"{path} exists already: give another name or ask for it to be overwritten")
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} does not exist: make it first")
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the name `path` when the block ends without an error.

    Raises:
        InputError: `path` exists, or the system refuses to write.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already: name another folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in a folder survive a power cut, where the system lets folders be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network and shared folders cannot be synced
                raise
        finally:
            os.close(descriptor)


@contextmanager
def held(folder: Path, name: str, busy: str) -> Iterator[None]:
    """Makes a folder if need be, and holds the lock file `name` in it.

    Raises:
        InputError: another process holds it, which `busy` says, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / name, timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(busy) from None
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
