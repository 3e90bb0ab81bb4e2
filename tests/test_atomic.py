"""Full disks and folders that cannot be written are told by name, and what was there before is kept."""

import errno
import os

import pytest
from surroundings import full_disk, read_only

from keras_ssl._atomic import explained, folder_aside, ready_folder, reserve, write_aside

pytestmark = pytest.mark.no_backend


def test_a_folder_is_made_and_left_empty(tmp_path):
    assert ready_folder(tmp_path / "a" / "b", "output_dir", 10_000) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(OSError, match=rf"`output_dir` must be a folder that takes .*{path} does not"):
            ready_folder(path, "output_dir")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_read_only_folder_is_told_beforehand():
    with read_only() as folder, pytest.raises(PermissionError, match=r"`output_dir` must .* allow writing"):
        ready_folder(folder, "output_dir")


def test_a_read_only_disk_is_told_beforehand(tmp_path, monkeypatch):
    def refuse(path, flags, *rest, **named):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *rest, **named)

    opened = os.open
    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OSError, match=r"`output_dir` must .*Read-only file system") as raised:
        ready_folder(tmp_path, "output_dir")
    assert raised.value.errno == errno.EROFS


@pytest.mark.parametrize(("size", "room"), [(4096, 100), (1_000_000, 100_000)])
def test_a_full_disk_is_told_beforehand(tmp_path, size, room):
    with full_disk(room), pytest.raises(OSError, match=r"`backup_dir` must be a folder that takes .*\[Errno"):
        ready_folder(tmp_path, "backup_dir", size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_a_file_system_that_cannot_reserve_is_trusted(tmp_path, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with open(tmp_path / "file", "wb") as file:
        if code == errno.EOPNOTSUPP:
            reserve(file.fileno(), 100)
        else:
            with pytest.raises(OSError, match="No space left"):
                reserve(file.fileno(), 100)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    file = tmp_path / "report.html"
    write_aside(file, lambda path: path.write_text("old"))
    with full_disk(100), pytest.raises(OSError, match=r"report.html could not be written.*\[Errno.* is kept"):
        write_aside(file, lambda path: path.write_text("new" * 100))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_read_only_folder_is_named_by_its_file():
    with read_only() as folder, pytest.raises(PermissionError, match=r"report.html could not be written"):
        write_aside(folder / "report.html", lambda path: path.write_text("new"))


def test_everybody_may_read_what_was_written_aside(tmp_path):
    (tmp_path / "direct").write_text("")
    write_aside(tmp_path / "aside", lambda path: path.write_text(""))
    assert (tmp_path / "aside").stat().st_mode == (tmp_path / "direct").stat().st_mode


def test_what_a_killed_process_left_is_cleared_and_what_another_is_writing_is_not(tmp_path):
    dead = tmp_path / ".partial-a[1].keras-dead"
    dead.mkdir()
    (dead / "alive").write_text("")
    (dead / "a[1].keras").write_text("half")
    with folder_aside(tmp_path / "a[1].keras") as alive:
        (alive / "a[1].keras").write_text("half")
        write_aside(tmp_path / "b.keras", lambda path: path.write_text("b"))
        assert dead.exists()
        write_aside(tmp_path / "a[1].keras", lambda path: path.write_text("a"))
        assert not dead.exists()
        assert (alive / "a[1].keras").read_text() == "half"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].keras", "b.keras"]


def test_without_locks_nothing_that_may_be_alive_is_cleared(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder_aside(tmp_path / "a") as other:
        write_aside(tmp_path / "a", lambda path: path.write_text("a"))
        assert other.exists()


def test_errors_without_a_number_are_explained_too():
    with (
        pytest.raises(OSError, match=r"^Trouble\. Received: of HDF5\. Advice\.$"),
        explained("Trouble.", "Advice."),
    ):
        raise OSError("of HDF5")
