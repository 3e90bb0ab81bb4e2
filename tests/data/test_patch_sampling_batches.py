import keras
import numpy as np
import pytest
from tiny import Stop, stop
from volume_files import save_nifti

from keras_ssl import FineTuner, RotationTask, SelfSupervisedModel, encoders
from keras_ssl.data import PatchBatches, VolumePreparation, VolumeTable, open_volumes, synthetic_volumes
from keras_ssl.data.batches import ShuffledBatches
from keras_ssl.heads import SegmentationHead

SHAPES = [(9, 8, 7), (12, 6, 8), (6, 6, 6), (7, 11, 9)]


def numbered(shapes, channels=1):
    """Images in which each voxel tells of which image it is and where it lies."""
    images = []
    for number, shape in enumerate(shapes):
        flat = np.arange(np.prod(shape)).reshape(shape)
        images.append(np.stack([number * 10000 + flat] * channels, axis=-1).astype(np.float32))
    return images


def epoch_of(batches, epoch):
    batches.epoch = epoch
    return [batches[index] for index in range(len(batches))]


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shapes", [SHAPES, [shape[:2] for shape in SHAPES]], ids=["volumes", "images"])
def test_patches_are_whole_pieces_of_every_image_equally_often(shapes):
    rank = len(shapes[0])
    images = numbered(shapes, channels=2)
    batches = PatchBatches(images, (4,) * rank, batch_size=3, patches_per_image=5, seed=1)
    assert len(batches) == 7
    patches = np.concatenate([batch for (batch,) in epoch_of(batches, 0)])
    assert patches.shape == (20, *(4,) * rank, 2)
    corners = patches.reshape(20, -1)[:, 0]
    for patch, corner in zip(patches, corners, strict=True):
        image = images[int(corner) // 10000]
        start = np.unravel_index(int(corner) % 10000, image.shape[:-1])
        np.testing.assert_array_equal(patch, image[tuple(slice(at, at + 4) for at in start)])
    assert np.bincount(corners.astype(int) // 10000).tolist() == [5, 5, 5, 5]


def test_a_batch_follows_from_seed_epoch_and_index_alone():
    def make(seed=3):
        return PatchBatches(numbered(SHAPES), (4, 4, 4), batch_size=2, patches_per_image=3, seed=seed)

    batches = make()
    epochs = [epoch_of(batches, epoch) for epoch in range(3)]
    again = make()
    again.epoch = 2
    assert_same([again[5], again[0]], [epochs[2][5], epochs[2][0]])
    assert_same(epoch_of(batches, 1), epochs[1])
    for other in (epochs[1], epoch_of(make(4), 0)):
        assert any((a[0] != b[0]).any() for a, b in zip(epochs[0], other, strict=True))
    fresh = make()
    fresh.on_epoch_end()
    assert_same([fresh[1]], [epochs[1][1]])


def test_every_place_is_reached():
    image = np.arange(6 * 5, dtype=np.float32).reshape(6, 5, 1)
    batches = PatchBatches([image], (3, 4), batch_size=200, steps_per_epoch=1)
    corners = batches[0][0][:, 0, 0, 0]
    assert sorted(set(corners.tolist())) == [0, 1, 5, 6, 10, 11, 15, 16]


def test_steps_per_epoch_sets_the_number_of_full_batches():
    batches = PatchBatches(numbered(SHAPES), (4, 4, 4), batch_size=3, steps_per_epoch=5)
    assert len(batches) == 5
    assert [len(batch) for (batch,) in epoch_of(batches, 1)] == [3] * 5


def test_masks_are_of_the_same_place():
    images = numbered(SHAPES)
    masks = [(image[..., 0] % 3).astype(np.uint8) for image in images]
    batches = PatchBatches(images, (5, 4, 3), masks, batch_size=4, foreground=0.5, patches_per_image=4)
    for patches, labels in epoch_of(batches, 0):
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(patches[..., 0] % 3, labels)


def test_foreground_is_in_the_middle_and_rare_labels_come_as_often_as_common_ones():
    mask = np.zeros((40, 40), np.uint8)
    mask[20:30, 10:30] = 1
    mask[8, 9] = 2
    batches = PatchBatches(
        [np.zeros((40, 40, 1))], (5, 5), [mask], batch_size=400, foreground=1.0, steps_per_epoch=1
    )
    middles = batches[0][1][:, 2, 2]
    assert set(middles.tolist()) == {1, 2}
    assert 140 < (middles == 2).sum() < 260
    half = PatchBatches(
        [np.zeros((40, 40, 1))], (5, 5), [mask], batch_size=400, foreground=0.5, steps_per_epoch=1
    )
    assert 160 < (half[0][1][:, 2, 2] > 0).sum() < 300


def test_foreground_at_the_edge_is_in_the_patch_and_masks_without_any_will_do():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, 9] = 1
    images = [np.zeros((10, 10, 1))] * 2
    batches = PatchBatches(
        images, (4, 4), [mask, 0 * mask], batch_size=20, foreground=1.0, patches_per_image=10
    )
    _, labels = batches[0]
    assert labels.shape == (20, 4, 4)
    assert labels.sum(axis=(1, 2)).tolist() == [1] * 10 + [0] * 10


def test_of_many_places_some_are_kept():
    mask = np.ones((30, 30), np.uint8)
    batches = PatchBatches([np.zeros((30, 30, 1))], (3, 3), [mask], foreground=1.0)
    ((places,),) = batches._voxels
    assert places.shape == (256, 2)
    assert len(np.unique(places, axis=0)) == 256


def test_small_images_are_refused_by_name_or_padded():
    images = numbered([(9, 9, 9), (3, 9, 9), (9, 9, 2)])
    message = r"`patch_shape` must not be larger than an image. Received \(4, 4, 4\), larger than 2 of 3: "
    with pytest.raises(ValueError, match=message + r"1 \(3, 9, 9\), 2 \(9, 9, 2\). Pass small=.pad. to"):
        PatchBatches(images, (4, 4, 4))
    masks = [np.ones(image.shape[:-1], np.uint8) for image in images]
    batches = PatchBatches(images, (4, 4, 4), masks, batch_size=3, small="pad", foreground=0.5)
    patches, labels = batches[0]
    assert patches.shape == (3, 4, 4, 4, 1)
    assert labels.reshape(3, -1).sum(axis=1).tolist() == [64, 48, 32]
    assert (patches[1][labels[1] == 0] == patches[1][labels[1] == 1].min()).all()


def test_small_files_are_named(tmp_path):
    save_nifti(tmp_path / "tiny.nii", np.arange(27, dtype=np.float32).reshape(3, 3, 3))
    images, _ = open_volumes(VolumeTable([tmp_path / "tiny.nii"]), VolumePreparation(), verbose=0)
    with pytest.raises(ValueError, match=r"1 of 1: 0 \S*tiny\.nii \(3, 3, 3\)\. Pass"):
        PatchBatches(images, (4, 4, 4))


def test_fixed_patches_are_the_same_in_every_epoch():
    batches = PatchBatches(numbered(SHAPES), (4, 4, 4), fixed=True)
    assert_same(epoch_of(batches, 0), epoch_of(batches, 7))


def test_augmentation_is_seeded_and_masks_follow():
    def noisy(images, generator, masks=None):
        shift = generator.integers(1, 1000)
        return images + shift if masks is None else (images + shift, masks + shift)

    plain = PatchBatches(numbered(SHAPES), (4, 4, 4), batch_size=2)
    moved = PatchBatches(numbered(SHAPES), (4, 4, 4), batch_size=2, augment=noisy)
    assert_same(epoch_of(moved, 1), epoch_of(moved, 1))
    shifts = [moved[index][0] - plain[index][0] for index in range(2) if epoch_of(plain, 1)]
    assert len({float(shift.min()) for shift in shifts}) == 2
    masks = [image[..., 0] for image in numbered(SHAPES)]
    both = PatchBatches(numbered(SHAPES), (4, 4, 4), masks, batch_size=2, augment=noisy)
    np.testing.assert_array_equal(both[0][0][..., 0], both[0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "`images` must hold at least one image"),
        ({"patch_shape": (4,)}, r"`patch_shape` must be two or three sides. Received \(4,\)"),
        ({"patch_shape": (4, 4, 0)}, "`patch_shape` must be"),
        (
            {"patch_shape": (4, 4)},
            r"`images` must have 2 spatial axes, .* Received shape \(9, 8, 7, 1\) of image 0",
        ),
        ({"images": [*numbered(SHAPES[:1]), np.zeros((8, 8, 8, 2))]}, r"\(8, 8, 8, 2\) of image 1"),
        ({"masks": [np.zeros(SHAPES[0])]}, "`masks` must be one per image. Received 1 for 4"),
        (
            {"masks": [np.zeros((9, 8, 6)) for _ in SHAPES]},
            r"sizes of the images. Received shape \(9, 8, 6\) of mask 0",
        ),
        ({"foreground": 0.5}, "`foreground` must lie in .0, 1., and be 0 without `masks`. Received 0.5"),
        (
            {"foreground": 1.5, "masks": [np.zeros(shape) for shape in SHAPES]},
            "`foreground` must lie in .0, 1.",
        ),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"patches_per_image": 0}, "`patches_per_image` must be at least 1. Received 0"),
        ({"small": "crop"}, "`small` must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchBatches(**{"images": numbered(SHAPES), "patch_shape": (4, 4, 4)} | arguments)


def pretext():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 8, 1))
    encoder = keras.Model(inputs, keras.layers.Conv3D(2, 3, strides=2, activation="relu")(inputs))
    model = SelfSupervisedModel(RotationTask(), encoder, seed=0)
    model.compile(keras.optimizers.SGD(1e-2), jit_compile=False)
    return model


def test_a_pretext_run_with_workers_goes_on_bitwise(tmp_path):
    volumes = [image / image.max() for image in synthetic_volumes(3, shape=(16, 18, 20))[0]]

    def batches():
        return PatchBatches(volumes, (8, 8, 8), batch_size=2, patches_per_image=2, seed=5, workers=2)

    whole = pretext()
    history = whole.fit_pretext(batches(), epochs=3, verbose=0).history
    settings = {"epochs": 3, "backup_dir": tmp_path, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        pretext().fit_pretext(batches(), callbacks=[stop(1)], **settings)
    # Batches that were read before, as in a notebook.
    used = batches()
    used.epoch = 7
    resumed = pretext()
    assert resumed.fit_pretext(used, callbacks=[Stop()], **settings).history == history
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_does_not_go_on_with_other_patches(tmp_path):
    volumes = [image / image.max() for image in synthetic_volumes(2, shape=(16, 16, 16))[0]]
    settings = {"epochs": 1, "backup_dir": tmp_path, "verbose": 0}
    pretext().fit_pretext(PatchBatches(volumes, (8, 8, 8), batch_size=2, seed=5), **settings)
    with pytest.raises(ValueError, match="`backup_dir` must be empty or contain the same run"):
        pretext().fit_pretext(PatchBatches(volumes, (8, 8, 8), batch_size=2, seed=6), **settings)


def test_an_epoch_of_patches_is_not_gone_through_twice():
    volumes = [image / image.max() for image in synthetic_volumes(2, shape=(16, 16, 16))[0]]
    patches = PatchBatches(volumes, (8, 8, 8), batch_size=2, patches_per_image=1)
    assert len(patches) == 1
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be None or that of the PatchBatches, 1"):
        pretext().fit_pretext(patches, steps_per_epoch=3, verbose=0, epochs=1)
    pretext().fit_pretext(patches, steps_per_epoch=1, verbose=0, epochs=1)


def test_a_segmentation_is_trained_on_patches_and_their_masks():
    images, masks = synthetic_volumes(4, shape=(16, 18, 20))
    images = [image / image.max() for image in images]
    train = PatchBatches(images[:3], (8, 8, 8), masks[:3], batch_size=3, patches_per_image=2, foreground=1.0)
    validation = PatchBatches(images[3:], (8, 8, 8), masks[3:], batch_size=2, patches_per_image=2, fixed=True)
    encoder = encoders.unet_encoder((8, 8, 8, 1), filters=(2, 4))
    tuner = FineTuner(encoder, SegmentationHead(3), warmup_epochs=0, seed=0)
    history = tuner.fit(train, validation_data=validation, epochs=2, verbose=0).history
    assert len(history["loss"]) == len(history["val_loss"]) == 2
    assert np.isfinite(history["loss"]).all()


def test_a_data_set_with_an_epoch_of_its_own_has_it_set():
    batches = PatchBatches(numbered(SHAPES), (4, 4, 4), batch_size=4)
    shuffled = ShuffledBatches(batches, seed=0)
    shuffled.epoch = 4
    assert batches.epoch == 4
