"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from pathlib import Path

import pytest

from emorl.errors import InputError
from emorl.files import new_folder, write_whole


def test_written_whole(tmp_path: Path) -> None:
    with write_whole(tmp_path / "a") as file:
        file.write(b"new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_synced_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network disks; a disk that fails is told."""

    def fsync(descriptor: int, reason: int = errno.EINVAL) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", fsync)
    with write_whole(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    monkeypatch.setattr(os, "fsync", partial(fsync, reason=errno.EIO))
    with pytest.raises(InputError, match="cannot write"), write_whole(tmp_path / "b") as file:
        file.write(b"new")


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), write_whole(tmp_path / "a", overwrite=True) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_no_overwriting_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(InputError, match="exists"), write_whole(tmp_path / "a"):
        pass
    with write_whole(tmp_path / "a", overwrite=True) as file:
        file.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_what_is_no_regular_file_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with write_whole(tmp_path / "link", overwrite=True) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        with write_whole(tmp_path / "pipe", overwrite=True) as file:
            file.write(b"told")
        assert (tmp_path / "pipe").is_fifo() and os.read(reader, 9) == b"told"
        os.close(reader)
    if Path("/dev/fd").is_dir():  # where links lead to what has no name
        reader, writer = os.pipe()
        with write_whole(Path(f"/dev/fd/{writer}"), overwrite=True) as file:
            file.write(b"told")
        assert os.read(reader, 9) == b"told"
        os.close(reader)
        os.close(writer)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"), write_whole(tmp_path / "missing" / "a"):
        pass
    with pytest.raises(InputError, match="exists"), write_whole(tmp_path, overwrite=True):
        pass
    with pytest.raises(InputError, match="cannot write"), write_whole(tmp_path / ("a" * 300)):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as folder:
        (folder / "part").touch()
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "out") as folder:
        (folder / "part").touch()
    assert (tmp_path / "out" / "part").is_file()
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "out"):
        pass
