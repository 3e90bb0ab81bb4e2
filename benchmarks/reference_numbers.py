"""Record results at fixed seeds, to show that a refactoring changes none of them.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/reference_numbers.py --save before.json
    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/reference_numbers.py --compare before.json

Covers tasks, heads, preprocessing, encoders, losses, metrics, statistics, data and the examples. Each entry
holds some values with six significant digits and a hash of all values as float64. Entries are named by
concepts; library names are found wherever they are defined, and RENAMED maps those that have changed.
Results depend on the backend, the versions and the processor: compare on the same machine.
"""

import argparse
import functools
import hashlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import nibabel
import numpy as np
from keras import ops

import keras_ssl

# Names used below, as they were when the numbers were first recorded, and what they are called now.
RENAMED: dict[str, str] = {
    "block_mask": "box_mask",
    "block_rim": "mask_rim",
    "cell_patch_shape": "patch_shape_in_boxes",
    "random_cell_corners": "random_corners_in_boxes",
    "crop_normalized": "crop_standardized",
    "rescale_like": "match_intensity",
}
EXAMPLES = Path(__file__).parents[1] / "examples"
STUDY = "--fractions 1 --repetitions 1 --steps 4 --validations 4"
COMMANDS = {
    "diabetic_retinopathy": "--synthetic 60 --size 32 --pretext-epochs 2 --fractions 0.5 --repetitions 1 "
    "--steps 8 --validations 4",
    "hippocampus_segmentation": "--synthetic 12 --filters 2 4 --pretext-epochs 1 --warmup-fraction 0.5 "
    + STUDY.replace("validations 4", "validations 2"),
    "volume_classification": "--synthetic 40 --pretext-epochs 1 --arms frozen random " + STUDY,
    "several_devices": "--epochs 2",
}
SHAPES = {"2d": (24, 24, 3), "3d": (18, 18, 18, 1)}


class Library:
    """All names that modules of keras_ssl define, as attributes."""

    def __init__(self):
        for found in pkgutil.walk_packages(keras_ssl.__path__, "keras_ssl."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if getattr(value, "__module__", None) == module.__name__:
                    vars(self).setdefault(name, value)

    def __getattr__(self, name):
        if name in RENAMED:
            return getattr(self, RENAMED[name])
        raise AttributeError(f"keras_ssl defines no {name}: add it to RENAMED")


lib = Library()


def rng(seed=0):
    return np.random.default_rng(seed)


def pictures(count=6, shape=SHAPES["2d"], seed=0):
    return rng(seed).uniform(size=(count, *shape)).astype("float32")


def seeds():
    return keras.random.SeedGenerator(0)


def numbers(value):
    """Flatten to float64, texts left out."""
    leaves = [leaf for leaf in keras.tree.flatten(value) if leaf is not None and not isinstance(leaf, str)]
    arrays = [np.asarray(ops.convert_to_numpy(leaf) if ops.is_tensor(leaf) else leaf) for leaf in leaves]
    kept = [array.ravel().astype("float64") for array in arrays if array.dtype.kind in "biuf"]
    return np.concatenate([np.zeros(0), *kept]) + 0.0


def entry(value):
    flat = numbers(value)
    values = flat if len(flat) <= 24 else [flat.mean(), flat.std(), *flat[:: -(-len(flat) // 16)]]
    digest = hashlib.sha256(flat.tobytes()).hexdigest()[:16]
    return {"values": [float(f"{v:.6g}") for v in values], "size": len(flat), "sha": digest}


def flips(*axes):
    return lib.Augmentation(geometry=lib.Geometry(flip_axes=axes))


def many(flip_axes, **given):
    """Augmentation of every kind."""
    geometry = {"rotation": 20.0, "scale": (0.8, 1.2), "shift": 0.1, "crop": (0.6, 0.9)}
    intensity = {"blur": 1.0, "contrast": 0.3, "brightness": 0.2, "gamma": (0.7, 1.5), "noise": 0.1}
    return lib.Augmentation(
        geometry=lib.Geometry(flip_axes=flip_axes, **geometry),
        elastic=lib.Elastic(displacement=0.2),
        intensity=lib.Intensity(**intensity, probability=0.7),
        cutout=lib.Cutout(size=0.3),
        **given,
    )


def conv_encoder(shape):
    conv = {3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization()(conv(4, 3, padding="same")(inputs))
    x = keras.layers.Dropout(0.3)(keras.layers.ReLU()(x))
    return keras.Model(inputs, conv(4, 3, strides=2, padding="same", activation="relu")(x))


def pretext(make, shape):
    """Train a task for three epochs; what it shows the network, losses, evaluation, outputs and weights."""
    task, images = make(), pictures(6, shape)
    try:
        encoder_shape = task.encoder_input_shape(shape)
    except ValueError:
        return {"unsupported": 1.0}
    encoder = conv_encoder(encoder_shape)
    if isinstance(task, lib.MAETask):
        encoder = lib.vit_encoder(encoder_shape, patch_size=6, embedding_dim=12, depth=1, mlp_ratio=2)
    model = lib.SelfSupervisedModel(task, encoder, input_shape=shape, seed=0)
    parts = {
        "start": model.get_weights(),
        "preprocess": task.preprocess(ops.convert_to_tensor(images), seeds()),
    }
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit_pretext(images, batch_size=3, epochs=3, verbose=0).history
    parts |= {f"history {name}": values for name, values in history.items()}
    scores = model.evaluate(images, batch_size=3, verbose=0, return_dict=True)
    parts |= {f"evaluate {name}": value for name, value in scores.items()}
    outputs = model.predict(images, batch_size=3, verbose=0)
    return {**parts, "outputs": outputs, "encoder": model.encoder.get_weights(), "end": model.get_weights()}


def fine_tune(head, shape=(8, 8, 3), fit=types.MappingProxyType({}), **settings):
    """Train a head for three epochs, the first of them with a frozen encoder."""
    images, labels = pictures(12, shape), np.arange(12) % 3
    encoder = conv_encoder(shape)
    if isinstance(head, lib.SegmentationHead):
        encoder, labels = lib.unet_encoder(shape, (4, 8)), (images[..., 0] * 3).astype("uint8")
    tuner = lib.FineTuner(encoder, head, **{"warmup_epochs": 1, "seed": 0, **settings})
    start = tuner.model.get_weights()
    history = tuner.fit(
        images, labels, validation_data=(images[:6], labels[:6]), batch_size=4, epochs=3, verbose=0, **fit
    ).history
    scores = tuner.evaluate(images, labels, batch_size=5)
    return {
        "start": start,
        **{f"history {name}": values for name, values in history.items()},
        **{f"evaluate {name}": value for name, value in scores.items()},
        "outputs": tuner.model.predict(images, verbose=0),
        "predictions": tuner.predict(images),
        "end": tuner.model.get_weights(),
    }


def plain_keras():
    """The callbacks in `fit` of a model that the library did not build."""
    images, grades = pictures(12, (8, 8, 3)), np.arange(12) % 3
    encoder = conv_encoder((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(encoder.output)
    model = keras.Model(encoder.input, keras.layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    kappa = lib.QuadraticWeightedKappaCallback((images, grades), num_grades=3)
    callbacks = [lib.WarmupFreeze(encoder, 1), kappa]
    history = model.fit(images, grades, batch_size=4, epochs=3, verbose=0, callbacks=callbacks).history
    return {**history, "end": model.get_weights()}


def encode(build, *inputs):
    """Outputs on fixed images, and the weights, of an encoder built with seed 0."""
    encoder = build()
    shape = inputs[0] if inputs else encoder.input_shape[1:]
    outputs = encoder(pictures(2, shape), training=False)
    return {"outputs": outputs, "weights": encoder.get_weights()}


def inference():
    """Use of trained models: heat maps, sliding windows, checks of what was learned, graders, segmenters."""
    images, grades = pictures(24, (16, 16, 3)), np.arange(24) % 3
    model = lib.SelfSupervisedModel(lib.RotationTask(), conv_encoder((16, 16, 3)), seed=0)
    tuner = lib.FineTuner(model.encoder, lib.OrdinalHead(5), seed=0)
    found = {
        "shortcuts": lib.rotation_shortcuts(model, images),
        "representation": lib.check_representation(model.encoder, images, grades),
        "grad_cam": lib.grad_cam(tuner.model, images, head=tuner.head),
    }
    unet = lib.unet_encoder((8, 8, 8, 1), (2, 4))
    masker = lib.FineTuner(unet, lib.SegmentationHead(3), seed=0).model
    volume = pictures(1, (12, 10, 9, 1))[0]
    for blending in ("gaussian", "constant"):
        found[f"window {blending}"] = lib.sliding_window_predict(masker, volume, (8, 8, 8), blending=blending)
    with tempfile.TemporaryDirectory() as folder:
        lib.Grader(tuner.model, tuner.head, lib.Preparation(size=16)).save(f"{folder}/grader.keras")
        keras.utils.save_img(f"{folder}/a.png", lib.synthetic_fundus(1, size=40)[0][0], scale=False)
        graded = lib.Grader.load(f"{folder}/grader.keras").grade([f"{folder}/a.png"])[0]
        found["grader"] = (graded.grade, graded.probabilities)
        preparation = lib.VolumePreparation(spacing=(1.0, 1.0, 1.0), shape=(8, 8, 8))
        save_nifti(f"{folder}/scan.nii.gz", volume[..., 0], oblique())
        segmenter = lib.Segmenter(masker, preparation, ("background", "a", "b"))
        written = segmenter.segment([f"{folder}/scan.nii.gz"], f"{folder}/out", verbose=0)
        found["segmenter"] = np.asarray(nibabel.load(written[0]).dataobj)
    return found


def oblique():
    """An affine with swapped and flipped axes, unequal spacing, and a rotation by 10 degrees."""
    c, s = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return turn @ np.array([[0, -1.5, 0, 5], [1.0, 0, 0, -7], [0, 0, 2.0, 11], [0, 0, 0, 1]])


def save_nifti(path, voxels, affine):
    nibabel.Nifti1Image(voxels, affine).to_filename(path)


def image_data():
    images, grades = lib.synthetic_fundus(10, size=48, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            frame = np.zeros((60, 70, 3), "uint8")
            frame[5:53, 12:60] = images[0] if number == 9 else image
            keras.utils.save_img(
                f"{folder}/{number // 2}_{('left', 'right')[number % 2]}.png", frame, scale=False
            )
        rows = [f"{n // 2}_{('left', 'right')[n % 2]},{grade}" for n, grade in enumerate(grades)]
        Path(folder, "labels.csv").write_text("\n".join(["image,level", *rows]))
        table = lib.ImageTable.from_csv(f"{folder}/labels.csv", folder)
        found = {"grades": table.grades, "groups": np.unique(table.groups, return_inverse=True)[1]}
        found["copies"] = np.unique(table.group_duplicates().groups, return_inverse=True)[1]
        for crop in ("circle", None):
            for channels in (1, 3):
                preparation = lib.Preparation(size=24, crop=crop, channels=channels)
                found[f"crop {crop}, {channels}"] = lib.load_images(table, preparation, f"{folder}/cache")[0]
                found[f"opened {crop}, {channels}"] = lib.open_images(table, preparation)[:]
        first = lib.read_image(f"{folder}/0_left.png")
        found["fundus"] = first[lib.find_fundus(first)]
        parts = {"train_images": images, "train_labels": grades[:, None]}
        np.savez(f"{folder}/set.npz", **parts, val_images=images[:3], val_labels=grades[:3, None])
        found["medmnist"] = tuple(lib.load_medmnist(f"{folder}/set.npz", ("train", "val")))
    return found


def volume_data():
    found = {}
    scans, masks = lib.synthetic_volumes(3, (16, 18, 17), seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for number, (scan, mask) in enumerate(zip(scans[..., 0], masks, strict=True)):
            for name, voxels in (("images", scan), ("labels", mask)):
                Path(folder, name).mkdir(exist_ok=True)
                affine = oblique() if number else np.diag([-1.0, 1.0, 1.0, 1.0])
                save_nifti(f"{folder}/{name}/{number}.nii.gz", voxels[: 16 - number], affine)
        table = lib.VolumeTable.from_folder(f"{folder}/images", f"{folder}/labels")
        for name in ("PercentileScale", "ZScore", "Window"):
            intensity = getattr(lib, name)(*((0, 200) if name == "Window" else ()))
            for spacing in (None, (1.2, 1.0, 1.5)):
                preparation = lib.VolumePreparation(spacing, (16, 12, 20), intensity=intensity)
                options = {"max_foreground_loss": 1.0, "verbose": 0}
                key = f"{name}, {'resampled' if spacing else 'as it is'}"
                found[f"loaded {key}"] = lib.load_volumes(table, preparation, **options)
                if spacing is None:
                    images, labels = lib.open_volumes(table, preparation, f"{folder}/cache", **options)
                    found[f"opened {key}"] = [(i[2:9], m[2:9]) for i, m in zip(images, labels, strict=True)]
        mask = lib.Volume(masks[1], oblique())
        found["restored"] = preparation.restore(preparation.mask(mask), mask).voxels
        found["read"] = tuple(lib.read_volume(f"{folder}/images/1.nii.gz"))
        Path(folder, "dicom").mkdir()
        for index in (2, 0, 1):
            save_dicom(f"{folder}/dicom/{(7 * index) % 5}.dcm", index, rng(index).integers(0, 999, (5, 6)))
        found["dicom"] = tuple(lib.read_dicom_series(f"{folder}/dicom"))
    return found


def save_dicom(path, index, pixels):
    import pydicom

    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = f"1.2.{index + 1}"
    one.SeriesInstanceUID, one.Modality = "1.2.9", "CT"
    one.ImagePositionPatient = [1.0, 2.0, 2.5 * index]
    one.ImageOrientationPatient, one.PixelSpacing = [1.0, 0, 0, 0, 1.0, 0], [0.5, 0.75]
    one.Rows, one.Columns, one.SamplesPerPixel = *pixels.shape, 1
    one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    one.RescaleSlope, one.RescaleIntercept = 2, -1024
    one.PixelData = pixels.astype("uint16").tobytes()
    one.save_as(path, enforce_file_format=True)


def study_records():
    """Records of a made-up study: three arms, five fractions, three repetitions."""
    records = []
    for number in range(45):
        g, (repetition, fraction, arm) = rng(number), np.unravel_index(number, (3, 5, 3))
        share, truth = (0.05, 0.1, 0.25, 0.5, 1.0)[fraction], rng(repetition).integers(0, 5, 60)
        noise = (1.2, 1.1, 1.6)[arm] * (1 - 0.35 * np.log10(share / 0.05))
        predicted = np.clip(truth + np.rint(g.normal(0, noise, 60)), 0, 4).astype(int)
        kappa = float(lib.quadratic_weighted_kappa(lib.grade_confusion(truth, predicted, 5)))
        keys = {
            "arm": ("frozen", "initialized", "random")[arm],
            "fraction": share,
            "labels": int(600 * share),
        }
        keys |= {"task": "none" if arm == 2 else "rotation", "repetition": int(repetition), "fold": 0}
        lists = {"test_rows": list(range(60)), "test_grades": truth.tolist()}
        lists |= {"test_predictions": predicted.tolist(), "curve_steps": [25, 50, 75]}
        curve = [kappa - 0.3, kappa - 0.05, kappa]
        sizes = {"train_images": 600, "validation_images": 100, "test_images": 60}
        records.append({**keys, **lists, **sizes, "status": "ok", "qw_kappa": kappa, "curve_qw_kappa": curve})
    return records


def example(name):
    """Run an example in a folder of its own; the numbers of its records, tables and encoder."""
    with tempfile.TemporaryDirectory() as folder:
        images, grades = lib.synthetic_fundus(24, size=16)
        np.savez(f"{folder}/set.npz", train_images=images, train_labels=grades[:, None])
        command = [
            sys.executable,
            EXAMPLES / f"{name}.py",
            *COMMANDS[name].split(),
            "--output",
            f"{folder}/out",
        ]
        if name == "several_devices":
            command += ["--npz", f"{folder}/set.npz", "--batch-size", "8"]
        found = printed(command, folder)
        file = Path(folder, "out", "records.jsonl")
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for key in {key for record in records for key in record} - {"seconds"}:
            found[key] = [record.get(key) for record in records]
        for file in sorted(Path(folder, "out").glob("**/*.keras")):
            # The template of untrained encoders, none.keras, has weights without a seed that are never used.
            if "backup" not in str(file) and file.stem != "none":
                weights = keras.saving.load_model(file, compile=False).get_weights()
                found[f"weights of {file.relative_to(Path(folder, 'out'))}"] = weights
    return found


def printed(command, folder):
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    # Not lines of progress, in brackets, which name seconds.
    lines = [line for line in done.stdout.splitlines() if re.match(r"\||\w.* % of |process ", line)]
    return {"printed": [float(number) for line in lines for number in re.findall(r"-?\d+\.?\d*", line)]}


def thesis_table():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in study_records()))
        return printed([sys.executable, EXAMPLES / "thesis_table.py", "runs.jsonl"], folder)


TASKS = """
rotation = RotationTask()
rotation all copies = RotationTask(copies="all", hidden_units=(8,), batch_norm=True, dropout=0.5, pooling="max")
rotation cube = RotationTask(rotations="cube", guards=None)
jigsaw = JigsawTask()
relative patch = RelativePatchTask()
relative patch drop = RelativePatchTask(color="drop")
relative patch project = RelativePatchTask(color="project")
inpainting = InpaintingTask()
colorization = ColorizationTask(value_range=(0, 1))
colorization regression = ColorizationTask(value_range=(0, 1), mode="regression")
exemplar = ExemplarTask()
exemplar hardest = ExemplarTask(negatives="hardest")
cpc = CPCTask()
simclr = SimCLRTask()
moco = MoCoTask()
byol = BYOLTask()
simsiam = SimSiamTask()
barlow twins = BarlowTwinsTask()
vicreg = VICRegTask()
dino = DINOTask()
dino sinkhorn = DINOTask(assignment="sinkhorn")
mae = MAETask()
mae pixels = MAETask(normalize_patches=False)
simmim = SimMIMTask()
multi = MultiTask(weights=(1.0, 0.5))
"""  # noqa: E501
CALLS = """
head ordinal = fine_tune(OrdinalHead(3))
head ordinal deep = fine_tune(OrdinalHead(3, hidden_units=(8,), batch_norm=True, dropout=0.5, pooling="max"))
head multi-hot = fine_tune(MultiHotHead(3))
head classification = fine_tune(ClassificationHead(3))
head regression = fine_tune(RegressionHead(3))
head segmentation 2d = fine_tune(SegmentationHead(3), (8, 8, 1))
head segmentation 3d = fine_tune(SegmentationHead(3), (8, 8, 4, 1))
fine-tuner class weights, mirrored = fine_tune(ClassificationHead(3), fit=dict(class_weight={0: 2.0}, augment=flips(1)))
fine-tuner two optimizers = fine_tune(OrdinalHead(3), encoder_optimizer=SGD(1e-3), metrics=[QuadraticWeightedKappa(3)])
fine-tuner frozen encoder = fine_tune(OrdinalHead(3), warmup_epochs=0, encoder_trainable=False)
fine-tuner dice loss = fine_tune(SegmentationHead(3), (8, 8, 1), loss=DiceCrossentropy(), fit=dict(augment=flips(1)))
callbacks in plain Keras = plain_keras()
inference = inference()
rotate 2d = rotate(x2, [0, 1, 2, 3, 0, 1])
rotate 3d = rotate(cube, [0, 3, 5, 9])
rotate cube = rotate(cube, [0, 7, 15, 23], "cube")
rotate axes = rotate(x3[:, :, :10], [0, 1, 2, 3], axes=[(0, 1)])
rotate fit = rotate(x3, [0, 1, 5, 9], fit="crop")
random rotate = random_rotate(x2, seeds())
rotate all = rotate_all(x2)
quarter turns = quarter_turns(2), quarter_turns(3), quarter_turns(3, "cube")
guards = [RotationTask(guards=RotationGuards(mask=m)).preprocess(t(x2), seeds()) for m in ("circle", "border", None)]
augmentation numpy = {k: getattr(Augmentation, k)()(x2 if k in "fundus xray" else x3, rng()) for k in KINDS}
augmentation seeds = {k: getattr(Augmentation, k)()(t(x2 if k in "fundus xray" else x3), seeds()) for k in KINDS}
augmentation masks = {k: getattr(Augmentation, k)()(x3, rng(), (x3[..., 0] > 0.5).astype("uint8")) for k in KINDS[2:]}
augmentation all 2d = many((0, 1), output_shape=(16, 16))(x2, rng())
augmentation all 3d = many((0,), fill="edge")(x3, rng())
augmentation turns = Augmentation(geometry=Geometry(right_angles=True, probability=0.5))(cube, rng())
random mirror = flips(1)(x2, rng())
random views = {k: random_views(t(x2), seeds(), globals()[k + "_views"]()) for k in ("fundus", "xray")}
random views 3d = {k: random_views(t(x3), seeds(), globals()[k + "_views"]()) for k in ("mr", "ct")}
random views default = random_views(t(x2), seeds(), count=3), random_views(t(x3), seeds())
affine matrices = affine_matrices(3, flips=[[1, 0, 1]], angles=[[0.1, 0.2, 0.3]], scales=[1.2], shifts=[[1.0, -2.0, 0.5]])
resample = {f: resample(x2, affine_matrices(2, angles=[[0.3]] * 6, scales=[1.3] * 6), fill=f) for f in ("edge", "minimum")}
resample nearest = resample(x3, affine_matrices(3, angles=[[0.3, 0.1, 0.2]] * 4), (6, 7, 8), interpolation="nearest")
blur = gaussian_blur(x2, np.linspace(0, 2, 6), 3), gaussian_blur(x3, [0.5, 1.0, 0.0, 2.0], 2)
intensity = adjust_intensity(x2, brightness=w, contrast=w, color=np.outer(w, [1, 0.5, 1.5])), adjust_gamma(x2, w)
noise = add_noise(x2, x2[::-1], w)
color drop = drop_colors(x2, [0, 1, 2, 0, 1, 2], x2[::-1]), project_colors(x2)
cropping = center_crop(x3, (5, 6, 7)), zoom_crop(x2, w, np.outer(w, [1, -1]))
block mask = block_mask([[[0, 1], [3, 2]]] * 6, (4, 5), (24, 24))
block rim = block_rim(t(half), (1, 2)), block_rim(t(half), (2, 3))
hide where = hide_where(t(x2), t(half))
hide outside = hide_where(t(x2), ~circle_mask((24, 24), 0.2)[..., None]), cut_out(x2, [[0.3, 0.7]] * 6, [[0.4, 0.2]] * 6)
masks = circle_mask((9, 10), 0.1), border_mask((9, 10), 0.2), circle_mask((5, 6, 7)), border_mask((5, 6, 7), axes=(0, 2))
standardize = standardize(t(x2)), standardize(t(x3)), standardize(split_patches(x2, (6, 8)), (2, 3, 4), epsilon=1e-6)
cells = random_cell_corners([[0, 4, 8]], (24, 24), 3, (5, 5), ReplaySeeds()), cell_patch_shape((225, 90), 3, 0.7)
crop normalized = rescale_like(crop_normalized(x2, [[[0, 0], [9, 4]]] * 6, (6, 7)), x2)
patches = split_patches(x3, (5, 4, 2)), join_patches(split_patches(x2, (6, 8)), (4, 3)), crop_patches(x2, [[[1, 2]]] * 6, (5, 6))
patch masks = count_masked(196, 0.75), mask_lowest(x2[:, 0, :, 0], 5), patch_mask_to_pixels(x2[:, 0, :6, 0] > 0.5, (2, 3), (4, 5))
patch shapes = default_patch_shape((224, 224)), default_patch_shape((48, 96, 96)), patch_grid((32, 48), (16, 16))
overlapping = overlapping_corners((9, 12), (4, 4)), overlapping_patch_shape((224, 28), 6), overlapping_grid((256, 40), (64, 16))
permutations = hamming_permutations(9, 50), hamming_permutations(8, 30, seed=1)
lab = rgb_to_lab(x2), ab_bins(100 * x2[..., :2] - 50), count_ab_bins(10)
replayed seeds = [keras.random.uniform((3,), seed=one) for s in (ReplaySeeds(), ReplaySeeds(5, x2)) for one in (s, s)]
encoder small = encode(lambda: small_encoder((16, 16, 3))), encode(lambda: small_encoder((8, 8, 8, 1), value_range=(0, 255)))
encoder default = encode(lambda: SelfSupervisedModel(RotationTask(), input_shape=(32, 32, 3), seed=0).encoder)
encoder densenet121 = encode(lambda: densenet121((32, 32, 32, 1), blocks=(2, 2), growth_rate=8, initial_filters=8))
encoder densenet169 = encode(lambda: densenet169((32, 32, 3), value_range=(0, 255)))
encoder densenet201 = encode(lambda: densenet201((32, 32, 3)))
encoder resnet18 = encode(lambda: resnet18((32, 32, 3))), encode(lambda: resnet18((16, 16, 16, 1), initial_filters=8))
encoder resnet34 = encode(lambda: resnet34((32, 32, 3)))
encoder resnet50 = encode(lambda: resnet50((32, 32, 3))), encode(lambda: resnet50((16, 16, 16, 1), (1, 1), 8))
encoder unet = encode(lambda: unet_encoder((16, 16, 3), (4, 8))), encode(lambda: unet_encoder((8, 8, 8, 1), (4, 8)))
encoder vit = encode(lambda: vit_encoder((24, 24, 3), 6, 12, 2)), encode(lambda: vit_encoder((8, 8, 8, 1), 4, 12, 1, position="learned"))
encoder inflated = {m: encode(lambda: inflate(small_encoder((8, 8, 3), (4, 8)), 6, m)) for m in ("center", "mean")}
encoder adapted stem = [encode(lambda: adapt_channels(small_encoder((8, 8, 3), (4, 8)), c)) for c in (1, 4)]
encoder rescaled = encode(lambda: with_rescaling(small_encoder((8, 8, 3), (4,)), [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]))
encoder rematerialized = encode(lambda: rematerialize(small_encoder((8, 8, 3), (4, 8))))
encoder pyramid = encode(lambda: pyramid_model(small_encoder((28, 28, 3), (4, 8, 8))), (28, 28, 3))
loss nt-xent = nt_xent(a, 0.2), view_similarities(a)
loss info-nce = info_nce(a, b), info_nce(a, b, c, 0.2)
loss triplet = {n: triplet_margin(a, b, 0.5, n) for n in ("all", "hardest")}
loss barlow twins = barlow_twins(a, b), cross_correlation(a, b)
loss vicreg = vicreg(a, b), standard_deviations(a)
loss dino = dino(t(a.reshape(2, 4, 5)), t(p.reshape(2, 4, 5))), sinkhorn(t(a), 0.5), assignment_information(p.reshape(2, 4, 5))
loss predictive coding = predictive_coding(r.normal(size=(2, 4, 3, 2, 5)), r.normal(size=(2, 4, 3, 5)), (1, 2))
loss similarity = cosine_regression(a, b), directional_spread(a), unit_vectors(a)
loss masked absolute error = masked_absolute_error(x2, x2[::-1], half)
loss weighted squared error = weighted_squared_error(x2, x2[::-1], 1.0 + half), relative_error(x2, x2[::-1], 1.0 + half)
loss rebalanced = rebalanced_crossentropy(bins, t(a.reshape(2, 4, 5))), rebalancing_weights(bins, 5)
loss dice = soft_dice_loss(bins, probs), soft_dice_loss(bins, probs, [1, 2, 1, 1, 3], True), SoftDice()(bins, probs)
loss jaccard = jaccard_distance(bins, probs), JaccardDistance(include_background=True)(bins, probs)
loss crossentropy = weighted_categorical_crossentropy(bins, probs, [1, 2, 1, 1, 3]), WeightedCategoricalCrossentropy()(bins, probs)
loss dice crossentropy = dice_crossentropy(bins, probs), DiceCrossentropy([1, 2, 1, 1, 3])(bins, probs)
loss weighted sum = WeightedSum([(1.0, SoftDice()), (0.5, JaccardDistance())])(bins, probs)
metric kappa = quadratic_weighted_kappa(grade_confusion(true, pred, 5)), grade_confusion(true, pred, 5, weights)
metric kappa in Keras = updated(QuadraticWeightedKappa(5, prediction="grades"), true, pred), updated(MeanDice(5), bins, probs)
metric decoded grades = decode_grades(marks, "probabilities"), decode_grades(marks[:, 1:], "cumulative"), decode_grades(score, "score")
metric thresholds = fit_thresholds(true, score), grade_thresholds("score", 5)
metric grading = grading_scores(true, pred, marks, num_grades=5)
metric segmentation = segmentation_scores(list(seg), list(seg[:, ::-1]), num_classes=3, spacing=(2.0, 1.0, 0.5))
metric confusion = [f(label_confusion(seg, seg[::-1], 3)) for f in (dice_scores, jaccard_scores, mean_dice)]
metric surface = [f(seg[0] > 1, seg[1] > 1, (2.0, 1.0, 0.5)) for f in (surface_distances, hausdorff_95, average_surface_distance)]
metric brats = brats_dice(seg, seg[::-1]), brats_regions(seg)
metric representation = effective_rank(a), embedding_spread(a), is_collapsed(a), nearest_is_own(a, b)
metric probes = knn_predict(feats, true, feats[::-1], 7), linear_probe_predict(feats, true, feats[::-1])
statistics summary = summarize(study_records())
statistics differences = paired_differences(study_records()), paired_differences(study_records(), corrected=True)
statistics labels saved = labels_saved(study_records(), resamples=500), still_rising(study_records())
statistics intervals = bootstrap_kappa(true, pred, 5, resamples=300), kappa_intervals(study_records(), resamples=300)
data split = {s: stratified_split(true, 0.3, groups, seed=s) for s in (0, 1)}, stratified_split(true, 0.2)
data folds = stratified_folds(true, 4, groups), stratified_folds(true, 3, seed=2), make_folds()
data subset = [labeled_subset(true, f, g) for f in (0.1, 0.5, 1.0) for g in (None, groups)]
data duplicates = duplicate_groups(x2[[0, 1, 0, 2, 1]]), merge_groups(groups, np.arange(60) // 7)
data synthetic fundus = synthetic_fundus(12, 40), synthetic_fundus(5, 64, seed=3)
data synthetic volumes = synthetic_volumes(3, (16, 18, 20)), synthetic_volumes(2, seed=3)
data batches = read(ArrayBatches((x2, w), 4, seed=1)), read(ShuffledBatches(ArrayBatches((w,), 2, shuffle=False), seed=1))
data patch batches = read(PatchBatches(list(x3), (6, 6, 6), list(x3[..., 0] > 0.9), batch_size=2, patches_per_image=3, foreground=0.5))
data patches = grid_patches(x3[0], (4, 5, 3)), grid_positions((10, 9), (4, 4)), read_patch(x3[0], (-1, 2, 3), (4, 4, 4), fill=0)
data images = image_data()
data volumes = volume_data()
example thesis table = thesis_table()
"""  # noqa: E501


def make_folds():
    protocol = lib.Protocol(folds=3, repetitions=2, fractions=(0.2, 1.0))
    true, groups = rng().integers(0, 5, 60), np.arange(60) // 3
    splits = lib.make_splits(true, groups, protocol)
    runs = lib.make_runs(true, groups, splits, protocol, ["rotation"])
    return [(one.train, one.validation, one.test) for one in splits], [run.labeled for run in runs]


def read(dataset):
    found = []
    for _ in range(2):
        found += [dataset[number] for number in range(len(dataset))]
        dataset.on_epoch_end()
    return found


def updated(metric, *values):
    metric.update_state(*values)
    return metric.result()


def inputs():
    """Names that CALLS use: the library's, and fixed arrays."""
    r, x2, x3 = rng(1), pictures(), pictures(4, (10, 12, 8, 1))
    marks, true, seg = (
        rng(2).dirichlet(np.ones(5), 60),
        rng(3).integers(0, 5, 60),
        rng(4).integers(0, 3, (3, 6, 7, 8)),
    )
    fixed = {"r": r, "x2": x2, "x3": x3, "cube": pictures(4, (7, 7, 7, 1)), "half": x2[..., :1] > 0.5}
    fixed |= {name: r.normal(size=(8, 5)).astype("float32") for name in "abc"}
    fixed |= {
        "p": r.dirichlet(np.ones(5), 8).astype("float32"),
        "w": np.linspace(0.3, 0.9, 6).astype("float32"),
    }
    fixed |= {"bins": r.integers(0, 5, (2, 4)), "probs": r.dirichlet(np.ones(5), (2, 4)).astype("float32")}
    fixed |= {"marks": marks, "true": true, "pred": np.clip(true + r.integers(-1, 2, 60), 0, 4), "seg": seg}
    fixed |= {
        "score": true + r.normal(0, 0.7, 60),
        "weights": r.uniform(size=60),
        "groups": np.arange(60) // 3,
    }
    fixed |= {
        "feats": r.normal(size=(60, 4)) + true[:, None],
        "t": ops.convert_to_tensor,
        "SGD": keras.optimizers.SGD,
    }
    fixed |= {"KINDS": ("fundus", "xray", "mr_volume", "ct_volume")}
    old = {name: getattr(lib, new) for name, new in RENAMED.items()}
    return {**vars(lib), **old, **globals(), **fixed}


def jobs(examples):
    """Functions without arguments, by the names of what they record."""
    found = {}
    for line in TASKS.strip().splitlines():
        name, code = line.split(" = ", 1)
        for rank, shape in SHAPES.items():
            make = functools.partial(lambda code: eval(code, inputs()), code)
            found[f"task {name} {rank}"] = functools.partial(pretext, make, shape)
    for line in CALLS.strip().splitlines():
        name, code = line.split(" = ", 1)
        if examples or not name.startswith("example"):
            found[name] = functools.partial(lambda code: eval(code, inputs()), code)
    return found | {f"example {name}": functools.partial(example, name) for name in COMMANDS if examples}


def difference(old, new):
    """Describe how two entries differ; empty where they do not."""
    if old["sha"] == new["sha"]:
        return ""
    if old["size"] != new["size"]:
        return f"{old['size']} values before, {new['size']} now"
    first, second = np.array(old["values"]), np.array(new["values"])
    if np.array_equal(first, second, equal_nan=True):
        return "equal to six digits in what is kept, other bytes"
    apart = np.abs(first - second)
    largest = np.nanmax(apart / np.maximum(np.abs(first), 1e-30))
    return f"absolute {np.nanmax(apart):.3g}, relative {largest:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", metavar="FILE", help="write what was found, after every job")
    parser.add_argument("--compare", metavar="FILE", help="print differences from an earlier file")
    parser.add_argument("--only", metavar="PATTERN", default="", help="regular expression of names of jobs")
    parser.add_argument("--without-examples", action="store_true")
    arguments = parser.parse_args()
    chosen = {k: v for k, v in jobs(not arguments.without_examples).items() if re.search(arguments.only, k)}
    found, failed = {}, []
    warnings.simplefilter("ignore")
    for name, job in chosen.items():
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        began = time.perf_counter()
        try:
            result = job()
            parts = result if isinstance(result, dict) else {"": result}
            entries = {f"{name}: {part}".removesuffix(": "): entry(value) for part, value in parts.items()}
            found |= {key: one for key, one in entries.items() if one["size"]}
        except Exception:
            failed.append(name)
            traceback.print_exc(limit=-3)
        print(f"{time.perf_counter() - began:6.1f} s  {name}{' FAILED' * (name in failed)}", flush=True)
        if arguments.save:
            Path(arguments.save).write_text(json.dumps(found, indent=0))
    print(f"{len(found)} entries of {len(chosen)} jobs, {len(failed)} failed: {', '.join(failed)}")
    if arguments.compare:
        everything = not (arguments.only or arguments.without_examples)
        before = json.loads(Path(arguments.compare).read_text())
        before = {name: old for name, old in before.items() if everything or name.split(":")[0] in chosen}
        lines = [f"{name}: gone" for name in before if name not in found]
        lines += [f"{name}: new" for name in found if name not in before]
        both = {name: difference(before[name], found[name]) for name in found if name in before}
        lines += [f"{name}: {how}" for name, how in both.items() if how]
        print(*lines, f"{len(both) - sum(map(bool, both.values()))} equal, {len(lines)} differ", sep="\n")
        failed += lines
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
