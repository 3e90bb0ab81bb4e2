"""Atomic writes: errors on full disks and read-only folders name the file; previous content is kept."""

import errno
import os

import pytest
from surroundings import full_disk, read_only

from keras_ssl._atomic import atomic_write, explain_os_error, ready_folder, reserve, temporary_folder_beside

pytestmark = pytest.mark.no_backend


def test_ready_folder_creates_an_empty_folder(tmp_path):
    assert ready_folder(tmp_path / "a" / "b", "output_dir", 10_000) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_place_of_the_folder_raises(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(OSError, match=rf"`output_dir` must be a writable folder .*{path}"):
            ready_folder(path, "output_dir")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_read_only_folder_raises_early():
    with (
        read_only() as folder,
        pytest.raises(PermissionError, match=r"`output_dir` must .* permission"),
    ):
        ready_folder(folder, "output_dir")


def test_a_read_only_disk_raises_early(tmp_path, monkeypatch):
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
def test_a_full_disk_raises_early(tmp_path, size, room):
    with full_disk(room), pytest.raises(OSError, match=r"`backup_dir` must be a writable folder .*\[Errno"):
        ready_folder(tmp_path, "backup_dir", size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_a_file_system_without_allocation_is_accepted(tmp_path, monkeypatch, code):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with open(tmp_path / "file", "wb") as file:
        if code == errno.EOPNOTSUPP:
            reserve(file.fileno(), 100)
        else:
            with pytest.raises(OSError, match="No space left"):
                reserve(file.fileno(), 100)


def test_a_full_disk_keeps_the_previous_file(tmp_path):
    file = tmp_path / "report.html"
    atomic_write(file, lambda path: path.write_text("old"))
    with full_disk(100), pytest.raises(OSError, match=r"report.html could not be written.*\[Errno.* is kept"):
        atomic_write(file, lambda path: path.write_text("new" * 100))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_read_only_folder_raises_with_the_name_of_the_file():
    with read_only() as folder, pytest.raises(PermissionError, match=r"report.html could not be written"):
        atomic_write(folder / "report.html", lambda path: path.write_text("new"))


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "direct").write_text("")
    atomic_write(tmp_path / "aside", lambda path: path.write_text(""))
    assert (tmp_path / "aside").stat().st_mode == (tmp_path / "direct").stat().st_mode


def test_leftovers_of_killed_processes_are_deleted_and_files_in_use_are_not(tmp_path):
    dead = tmp_path / ".partial-a[1].keras-dead"
    dead.mkdir()
    (dead / "alive").write_text("")
    (dead / "a[1].keras").write_text("half")
    with temporary_folder_beside(tmp_path / "a[1].keras") as alive:
        (alive / "a[1].keras").write_text("half")
        atomic_write(tmp_path / "b.keras", lambda path: path.write_text("b"))
        assert dead.exists()
        atomic_write(tmp_path / "a[1].keras", lambda path: path.write_text("a"))
        assert not dead.exists()
        assert (alive / "a[1].keras").read_text() == "half"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].keras", "b.keras"]


def test_without_file_locks_nothing_is_deleted(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with temporary_folder_beside(tmp_path / "a") as other:
        atomic_write(tmp_path / "a", lambda path: path.write_text("a"))
        assert other.exists()


def test_errors_without_an_errno_are_explained_too():
    with (
        pytest.raises(OSError, match=r"^Trouble\. Received: of HDF5\. Advice\.$"),
        explain_os_error("Trouble.", "Advice."),
    ):
        raise OSError("of HDF5")
