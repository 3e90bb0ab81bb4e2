"""A cache on a full or read-only disk, shared by several processes, damaged, or of files that vanish."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from PIL import Image
from surroundings import full_disk, read_only, run_clock_backwards
from volume_files import save_nifti

from keras_ssl import RotationTask, SelfSupervisedModel
from keras_ssl.data import (
    PatchBatches,
    Preparation,
    VolumePreparation,
    VolumeTable,
    load_images,
    load_volumes,
    loading,
    open_volumes,
    volume_table,
)
from keras_ssl.data.cache import Decoding

ROWS = 5
WHOLE = np.repeat(np.arange(ROWS, dtype="uint8"), 300).reshape(ROWS, 300)


def fill(row, arrays):
    arrays["a"][row] = row


def decoding(fill=fill):
    return Decoding(ROWS, {"a": ((300,), np.uint8)}, fill, workers=1, verbose=0)


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Full and read-only disks ---------------------------------------------------------------------------------


def never(row, arrays):
    raise AssertionError("time was spent on decoding")


def test_a_disk_that_cannot_hold_the_arrays_is_told_before_anything_is_decoded(tmp_path):
    with full_disk(1000), pytest.raises(OSError, match=r"`cache_dir` .*\[Errno"):
        decoding(never).on_disk(tmp_path / "entry")
    assert list(tmp_path.iterdir()) == []


def test_room_that_others_take_meanwhile_is_ours(tmp_path):
    """Without it the process would be killed in the midst of a row."""
    lengths = []

    def look(row, arrays):
        (file,) = tmp_path.rglob("a.npy")
        lengths.append(file.stat().st_blocks * 512)
        arrays["a"][row] = row

    decoding(look).on_disk(tmp_path / "entry")
    assert min(lengths) >= WHOLE.nbytes


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def refuse(path, text, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(
        OSError, match=r"`cache_dir` could not be filled \(.*entry\).*No space left"
    ) as raised:
        decoding().on_disk(tmp_path / "entry")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_rows_that_failed_need_no_room_of_their_own(tmp_path):
    def odd(row, arrays):
        arrays["a"][row] = row
        return "odd" if row % 2 else None

    with full_disk(WHOLE.nbytes + 4096):
        arrays, failures = decoding(odd).on_disk(tmp_path / "entry")
    np.testing.assert_array_equal(arrays["a"], WHOLE[::2])
    assert failures == {1: "odd", 3: "odd"}
    # The header that was written over still is what NumPy itself would write.
    np.save(tmp_path / "alike.npy", WHOLE[::2])
    assert (tmp_path / "entry" / "a.npy").read_bytes() == (tmp_path / "alike.npy").read_bytes()


def test_a_read_only_folder_is_told_before_anything_is_decoded():
    with read_only() as folder, pytest.raises(PermissionError, match="`cache_dir` must be a writable folder"):
        decoding(never).on_disk(folder / "entry")


def test_what_a_read_only_folder_holds_is_used():
    with read_only(lambda folder: decoding().on_disk(folder / "entry")) as folder:
        arrays, _ = decoding(never).on_disk(folder / "entry")
        np.testing.assert_array_equal(arrays["a"], WHOLE)


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(OSError, match=r"`cache_dir` .*cache"):
        decoding(never).on_disk(tmp_path / "cache" / "entry")
    with pytest.raises(OSError, match=r"`cache_dir` must be readable.*cache"):
        decoding(never).on_disk(tmp_path / "cache")


def test_an_entry_may_be_read_by_everybody_who_may_read_the_folder(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "direct").mkdir()
    decoding().on_disk(tmp_path / "entry")
    assert (tmp_path / "entry").stat().st_mode == (tmp_path / "direct").stat().st_mode


# Damage ---------------------------------------------------------------------------------------------------


def truncate(entry):
    os.truncate(entry / "a.npy", 900)


def zero_header(entry):
    with open(entry / "a.npy", "r+b") as file:
        file.write(bytes(128))


def garble(entry):
    (entry / "unreadable.json").write_text('{"0": ')


def lose_array(entry):
    (entry / "a.npy").unlink()


def lose_reasons(entry):
    (entry / "unreadable.json").unlink()


def lose_all(entry):
    shutil.rmtree(entry)
    entry.mkdir()


def flip_a_byte(entry):
    content = bytearray((entry / "a.npy").read_bytes())
    content[-300] ^= 1
    (entry / "a.npy").write_bytes(content)


def move_a_failure(entry):
    (entry / "unreadable.json").write_text('{"2": "odd"}')


def lose_checksums(entry):
    (entry / "checksums.json").unlink()


def be_of_another_version(entry):
    np.save(entry / "a.npy", WHOLE.astype("float32"))
    (entry / "unreadable.json").write_text(json.dumps({"version": 9, "failures": []}))


DAMAGE = [
    *(truncate, zero_header, garble, lose_array, lose_reasons, lose_all, be_of_another_version),
    *(flip_a_byte, move_a_failure, lose_checksums),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_and_mended(tmp_path, damage):
    entry = tmp_path / "entry"
    decoding().on_disk(entry)
    damage(entry)
    with pytest.warns(UserWarning, match=r"entry is damaged and is decoded again"):
        arrays, failures = decoding().on_disk(entry)
    np.testing.assert_array_equal(arrays["a"], WHOLE)
    assert failures == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoding(never).on_disk(entry)
    assert list(tmp_path.iterdir()) == [entry]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_full_disk_while_damage_is_mended_is_told(tmp_path, damage):
    decoding().on_disk(tmp_path / "entry")
    damage(tmp_path / "entry")
    before = files_of(tmp_path)
    with (
        full_disk(1000),
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(OSError, match=r"\[Errno"),
    ):
        decoding(never).on_disk(tmp_path / "entry")
    assert files_of(tmp_path) == before


def test_trouble_of_the_system_is_no_damage(tmp_path, monkeypatch):
    decoding().on_disk(tmp_path / "entry")
    before = files_of(tmp_path)

    def refuse(path, *arguments):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("numpy.lib.format.open_memmap", refuse)
        with pytest.raises(OSError, match=r"`cache_dir` must be readable.*Too many"):
            decoding(never).on_disk(tmp_path / "entry")
    assert files_of(tmp_path) == before
    decoding(never).on_disk(tmp_path / "entry")


# Several processes ----------------------------------------------------------------------------------------


FILLING = """
import sys, time
from pathlib import Path
import numpy as np
from keras_ssl.data.cache import Decoding
def fill(row, arrays):
    time.sleep(0.01)
    arrays["a"][row] = row
    return "odd" if row % 2 else None
def fill_all(folder):
    for number in range(8):
        entry = Path(folder) / str(number)
        arrays, failures = Decoding(5, {"a": ((300,), np.uint8)}, fill, 1, 0).on_disk(entry)
        yield sorted(failures), int(arrays["a"].astype(int).sum())
if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(list(fill_all(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_two_processes_that_fill_and_mend_the_same_entries_both_get_whole_arrays(tmp_path):
    ours = {"__name__": "ours"}
    exec(FILLING, ours)
    for number, damage in enumerate(DAMAGE[:4]):
        decoding().on_disk(tmp_path / str(2 * number))
        damage(tmp_path / str(2 * number))
    command = [sys.executable, "-W", "ignore", "-c", FILLING, str(tmp_path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        found = list(ours["fill_all"](tmp_path))
        said, errors = process.communicate(timeout=60)
    assert found == [([1, 3], 300 * (0 + 2 + 4))] * 8
    assert (said, process.returncode) == (f"{found}\n", 0), errors[-2000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == list("01234567")


def test_who_finishes_first_leaves_alone_what_another_is_writing_and_clears_what_the_dead_left(tmp_path):
    dead, new = tmp_path / ".partial-entry-dead", tmp_path / ".partial-entry-new"
    (dead / "entry").mkdir(parents=True)
    (dead / "alive").write_text("")
    new.mkdir()

    def let_another_finish_first(row, arrays):
        arrays["a"][row] = row
        if row == 3:
            (alive,) = {path.parent for path in tmp_path.glob("*/alive")} - {dead}
            before = files_of(alive)
            decoding().on_disk(tmp_path / "entry")
            assert set(tmp_path.iterdir()) == {tmp_path / "entry", new, alive}
            assert files_of(alive) == before

    arrays, _ = decoding(let_another_finish_first).on_disk(tmp_path / "entry")
    np.testing.assert_array_equal(arrays["a"], WHOLE)


def test_one_that_was_cleared_away_gets_what_the_other_made(tmp_path):
    def let_another_finish_first(row, arrays):
        if row == 3:
            (own,) = tmp_path.iterdir()
            decoding().on_disk(tmp_path / "entry")
            shutil.rmtree(own)
        return "odd" if row % 2 else None  # so that its own files are opened again, which are gone

    arrays, _ = decoding(let_another_finish_first).on_disk(tmp_path / "entry")
    np.testing.assert_array_equal(arrays["a"], WHOLE)


def test_who_reads_an_entry_while_it_is_mended_never_misses_it(tmp_path):
    entry = tmp_path / "entry"
    mapped, _ = decoding().on_disk(entry)
    misses, ended = [], threading.Event()

    def read():
        while not ended.is_set():
            try:
                np.testing.assert_array_equal(np.load(entry / "a.npy", mmap_mode="r"), WHOLE)
            except Exception as error:
                misses.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        garble(entry)
        with pytest.warns(UserWarning, match="is damaged"):
            decoding().on_disk(entry)
    ended.set()
    reader.join()
    assert misses == []
    np.testing.assert_array_equal(mapped["a"], WHOLE)


# Files that vanish or change ------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    (tmp_path / "photographs").mkdir()
    for number in range(4):
        pixels = np.full((20, 20), 40 * number + 9, np.uint8)
        pixels[:10] = 0
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{number}.png")
    return sorted(map(str, (tmp_path / "photographs").iterdir()))


def load(paths, cache, **settings):
    return load_images(paths, Preparation(size=16, crop=None), cache, workers=1, verbose=0, **settings)[0]


def before_reading(monkeypatch, path, happens):
    """Let something happen to a file between its hashing and its decoding."""
    read = loading.decode_image

    def read_later(one):
        if str(one) == path:
            happens()
        return read(one)

    monkeypatch.setattr(loading, "decode_image", read_later)


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_an_image_that_vanishes_is_told_and_not_remembered_as_unreadable(
    photographs, tmp_path, monkeypatch, skip_unreadable
):
    away = tmp_path / "away.png"
    with monkeypatch.context() as patch:
        before_reading(patch, photographs[2], lambda: os.rename(photographs[2], away))
        with pytest.raises(FileNotFoundError, match=r"`table` must name files .*2\.png"):
            load(photographs, tmp_path / "cache", skip_unreadable=skip_unreadable)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(FileNotFoundError, match=r"Missing 1: \S*2\.png"):
        load(photographs, tmp_path / "cache")
    away.rename(photographs[2])
    assert load(photographs, tmp_path / "cache").shape == (4, 16, 16, 3)


def test_an_image_that_vanishes_without_a_cache_is_named(photographs, monkeypatch):
    before_reading(monkeypatch, photographs[2], lambda: os.remove(photographs[2]))
    with pytest.raises(ValueError, match=r"1 of 4 are not: \S*2\.png \(.*No such file"):
        load(photographs, None)


@pytest.mark.parametrize("happens", ["before", "after"])
def test_an_image_that_is_written_over_does_not_go_by_its_old_name(
    photographs, tmp_path, monkeypatch, happens
):
    old = Path(photographs[1]).read_bytes()
    read = loading.decode_image

    def write_over(path):
        first = read(path)
        if path == photographs[1]:
            Path(path).write_bytes(Path(photographs[3]).read_bytes())
        return first if happens == "after" else read(path)

    with monkeypatch.context() as patch:
        patch.setattr(loading, "decode_image", write_over)
        with pytest.raises(OSError, match=r"stay as they are .*1\.png"):
            load(photographs, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    Path(photographs[1]).write_bytes(old)
    assert 40 < load(photographs, tmp_path / "cache")[1].max() < 80


def test_a_disk_that_fails_for_a_moment_leaves_no_mark(photographs, tmp_path, monkeypatch):
    def fail(path, *arguments, **options):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        with pytest.raises(OSError, match=r"`table` must .*Input/output error"):
            load(photographs, tmp_path / "cache")
    assert load(photographs, tmp_path / "cache").shape == (4, 16, 16, 3)


@pytest.fixture
def volumes(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            voxels = np.arange(number, 210 + number, dtype="int16").reshape(5, 6, 7)
            save_nifti(tmp_path / folder / f"{number}.nii.gz", voxels % 2 if folder == "masks" else voxels)
    return VolumeTable.from_folder(tmp_path / "images", tmp_path / "masks")


LOADERS = {
    "load_volumes": lambda *given: load_volumes(*given, max_foreground_loss=1.0, workers=1, verbose=0),
    "open_volumes": lambda *given: open_volumes(*given, max_foreground_loss=1.0, workers=1, verbose=0),
}
VOLUMES = VolumePreparation(shape=(4, 4, 4))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("happens", ["vanishes", "changes"])
@pytest.mark.parametrize("part", ["files", "masks"])
def test_a_volume_that_vanishes_or_changes_is_told_and_not_remembered(
    volumes, tmp_path, monkeypatch, loader, happens, part
):
    call = LOADERS[loader]
    path = Path(getattr(volumes, part).ravel()[1])
    content = path.read_bytes()
    read = volume_table.read_volume

    def read_later(one, *rest):
        if str(one) == str(path):
            path.unlink() if happens == "vanishes" else save_nifti(path, np.zeros((5, 6, 7), "int16"))
        return read(one, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(volume_table, "read_volume", read_later)
        with pytest.raises(OSError, match=path.name):
            call(volumes, VOLUMES, tmp_path / "cache")
    path.write_bytes(content)
    images, masks = call(volumes, VOLUMES, tmp_path / "cache")
    assert np.ptp(images[1]) > 0
    assert np.asarray(masks[1]).any()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_volume_that_the_system_withholds_is_not_remembered(volumes, tmp_path, monkeypatch, loader):
    def fail(path, *rest):
        try:
            raise OSError(errno.EIO, "Input/output error", str(path))
        except OSError as error:
            raise ValueError(f"{path} cannot be read as a volume: {error}") from error

    call = LOADERS[loader]
    with monkeypatch.context() as patch:
        patch.setattr(volume_table, "read_volume", fail)
        with pytest.raises(OSError, match=r"`table` must .*Input/output error"):
            call(volumes, VOLUMES, tmp_path / "cache")
    assert len(call(volumes, VOLUMES, tmp_path / "cache")[0]) == 3


# Other versions and clocks --------------------------------------------------------------------------------


def test_what_another_version_decodes_has_another_name(photographs, volumes, tmp_path, monkeypatch):
    def load_all():
        load(photographs, tmp_path / "cache")
        for call in LOADERS.values():
            call(volumes, VOLUMES, tmp_path / "cache")
        return {path.name for path in (tmp_path / "cache").iterdir()}

    first = load_all()
    assert load_all() == first
    monkeypatch.setattr(loading, "_FORMAT", loading._FORMAT + 1)
    second = load_all()
    assert len(first) == len(second - first) == 1 + 1 + 3


def test_a_clock_that_runs_backwards_changes_nothing(photographs, tmp_path, monkeypatch, capsys):
    run_clock_backwards(monkeypatch)
    for _ in range(2):
        images, _ = load_images(photographs, Preparation(size=16), tmp_path / "cache", workers=1)
        assert images.shape == (4, 16, 16, 3)
    assert "4/4" in capsys.readouterr().out


# Streaming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".nii", ".nii.gz"])
@pytest.mark.parametrize("happens", ["vanishes", "shrinks"])
def test_a_volume_lost_while_parts_are_read_is_named(tmp_path, suffix, happens):
    path = tmp_path / f"scan{suffix}"
    voxels = np.arange(512, dtype="int16").reshape(8, 8, 8)
    np.save(path, voxels) if suffix == ".npy" else save_nifti(path, voxels)
    images, _ = open_volumes(VolumeTable([str(path)]), VolumePreparation(), tmp_path / "cache", verbose=0)
    patches = PatchBatches(images, (4, 4, 4), batch_size=2, patches_per_image=4)
    (whole,) = patches[1]
    stored = Path(images[0].numbers[0].path)
    content = stored.read_bytes()
    stored.unlink() if happens == "vanishes" else os.truncate(stored, 300)
    with pytest.raises(OSError, match=rf"{stored} must stay as `open_volumes` found it while it is read"):
        patches[1]
    stored.write_bytes(content)
    np.testing.assert_array_equal(patches[1][0], whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_training_on_a_volume_that_vanishes_ends_with_its_name_and_goes_on_once_it_is_back(tmp_path, workers):
    path, away = tmp_path / "scan.npy", tmp_path / "away.npy"
    np.save(path, np.random.default_rng(0).uniform(size=(8, 8, 8)))
    images, _ = open_volumes(VolumeTable([str(path)]), VolumePreparation(), verbose=0)

    class Lose(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1 and not away.exists():
                path.rename(away)

    def fit(backup_dir):
        keras.utils.set_random_seed(0)
        encoder = tiny.sequential_encoder((4, 4, 4, 1))
        model = SelfSupervisedModel(RotationTask(guards=None), encoder, input_shape=(4, 4, 4, 1), seed=0)
        patches = PatchBatches(images, (4, 4, 4), batch_size=2, patches_per_image=8, workers=workers)
        model.fit_pretext(patches, epochs=4, callbacks=[Lose()], backup_dir=backup_dir, verbose=0)
        return tiny.weights(model)

    with pytest.raises(Exception, match=r"scan\.npy must stay as `open_volumes` found it while it is read"):
        fit(tmp_path / "backup")
    assert [one.name for one in (tmp_path / "backup").iterdir()] == ["epoch-000002"]
    path.write_bytes(away.read_bytes())
    tiny.assert_same(fit(tmp_path / "backup"), fit(tmp_path / "whole"))
