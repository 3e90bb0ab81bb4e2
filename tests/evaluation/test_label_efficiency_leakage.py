"""No patient and no copy of an image is on two sides, by a check that shares no code with the splits."""

import hashlib
import warnings

import numpy as np
import pytest
import tiny
from PIL import Image

import keras_ssl
from keras_ssl import data
from keras_ssl.evaluation import Protocol, label_efficiency
from keras_ssl.evaluation.protocol import make_runs, make_splits


def random_table(folder, seed, count=40):
    """A table of eyes, with copies of some under other names; and whom and what each shows."""
    rng = np.random.default_rng(seed)
    rows, people = [], []
    for person in range(count):
        site = ("", "a/", "b/")[rng.integers(3)]
        forms = ("{}_left", "{}_right", "{}_LEFT_2", "{}_right_crop", "{}_OD", "{}R")
        chosen = rng.choice(forms, rng.integers(1, 4), replace=False) if person % 4 else ["scan{}x"]
        for form in chosen:
            rows.append(f"{site if rng.random() < 0.5 else ''}{form.format(person)}")
            people.append({person})
    for copy, source in enumerate(rng.choice(len(people), 4, replace=False)):
        rows.append(f"again/copy{copy}x")
        people.append({("copy", copy)})
        people[source] |= people[-1]
    contents = {}
    for row, (name, who) in enumerate(zip(rows, people, strict=True)):
        copied = next((key for key in who if isinstance(key, tuple)), row)
        pixels = contents.setdefault(copied, rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        file = folder / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    grades = np.arange(len(rows)) % 3
    (folder / "labels.csv").write_text(
        "\n".join(["file,dr_grade", *(f"{name},{grade}" for name, grade in zip(rows, grades, strict=True))])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = data.ImageTable.from_csv(folder / "labels.csv", folder / "images").group_duplicates()
    return table, people


def bodies(people):
    """A number per image: those that share a person or a copy, by whatever chain, have the same."""
    numbers = list(range(len(people)))
    changed = True
    while changed:
        changed = False
        for one, mine in enumerate(people):
            for other, theirs in enumerate(people):
                low = min(numbers[one], numbers[other])
                if mine & theirs and numbers[one] != numbers[other]:
                    numbers[one] = numbers[other] = low
                    changed = True
    return np.array(numbers)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("folds", [1, 3])
def test_splits_of_random_tables(tmp_path, seed, folds):
    table, people = random_table(tmp_path, seed)
    body = bodies(people)
    assert len(np.unique(body)) < len(body)
    protocol = Protocol(folds=folds, repetitions=2, fractions=(0.3, 1.0), seed=seed)
    splits = make_splits(table.grades, table.groups, protocol)
    runs = make_runs(table.grades, table.groups, splits, protocol, ["any"])
    assert len(splits) == 2 * folds
    for split in splits:
        parts = [split.train, split.validation, split.test]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(body)))
        seen = [set(body[part].tolist()) for part in parts]
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]
    for run in runs:
        assert set(run.labeled.tolist()) <= set(run.split.train.tolist())


def test_records_of_a_study_against_what_it_was_trained_on(tmp_path):
    table, people = random_table(tmp_path, seed=7)
    images, table = data.load_images(table, data.Preparation(8, crop=None), verbose=0)
    body = bodies(people)
    by_content = {digest(image): number for image, number in zip(images, body.tolist(), strict=True)}
    pretrained, trained = [], []

    def recipe(encoder, images, seed, backup_dir):
        pretrained.append({by_content[digest(image)] for image in images})

    def note(batch, generator):
        trained[-1].update(by_content[digest(image)] for image in batch)
        return batch

    tested = []
    for fold in range(2):
        trained.append(set())
        records = label_efficiency(
            images,
            table.grades,
            encoder=tiny.functional_encoder(),
            pretrained={"noted": recipe},
            head=keras_ssl.OrdinalHead(3),
            output_dir=tmp_path / f"out{fold}",
            protocol=Protocol(
                arms=("initialized",),
                folds=1,
                fractions=(1.0,),
                steps=8,
                validations=2,
                warmup_fraction=0.0,
                augment=note,
                seed=fold,
            ),
            groups=table.groups,
            verbose=False,
        )
        tested += [set(body[record["test_rows"]].tolist()) for record in records]
    assert len(tested) == len(pretrained) == len(trained) == 2
    for test, pretext, training in zip(tested, pretrained, trained, strict=True):
        assert len(pretext) > 10
        assert training
        assert training <= pretext
        assert not test & pretext


def digest(image):
    return hashlib.sha256(np.asarray(image).astype("uint8").tobytes()).hexdigest()
