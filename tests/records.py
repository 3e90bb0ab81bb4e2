"""Records as a study writes them, drawn with a seed: three arms, five fractions, three repetitions."""

import numpy as np

from keras_ssl.metrics import quadratic_weighted_kappa

GRADES = 5
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
NAMES = ("no DR", "mild", "moderate", "severe", "proliferative")
# How likely a grade is taken for a neighbor, with no labels; every label makes it less so.
NOISE = {"frozen": 1.2, "initialized": 1.1, "imagenet": 1.0, "imagenet+rotation": 0.6, "random": 1.6}
# Fine-tuned from given weights.
GIVEN = ("imagenet", "imagenet+rotation")


def study(arms=("frozen", "initialized", "random"), repetitions=3, tested=150, seed=0, gain=True):
    """Draw the records of a study; without `gain`, pretraining makes no difference."""
    records = []
    for repetition in range(repetitions):
        generator = np.random.default_rng((seed, repetition))
        rows = generator.choice(1000, tested, replace=False)
        truth = generator.choice(GRADES, tested, p=(0.45, 0.15, 0.2, 0.12, 0.08))
        for fraction in FRACTIONS:
            for arm in arms:
                noise = (NOISE[arm] if gain else 1.2) * (1 - 0.35 * np.log10(fraction / 0.05))
                generator = np.random.default_rng((seed, repetition, int(1000 * fraction), arms.index(arm)))
                guess = truth + np.rint(generator.normal(0, noise, tested))
                predictions = np.clip(guess, 0, GRADES - 1).astype(int)
                records.append(_record(arm, fraction, repetition, rows, truth, predictions, generator))
    return records


def _record(arm, fraction, repetition, rows, truth, predictions, generator):
    task = arm if arm in GIVEN else "none" if arm == "random" else "rotation"
    kappa, accuracy = _kappa(truth, predictions), float(np.mean(truth == predictions))
    steps = np.arange(1, 9) * 25
    rise = 1 - np.exp(-steps / 60)
    noise = generator.normal(0, 0.015, (3, len(steps)))
    return {
        "task": task,
        "arm": "initialized" if arm in GIVEN else arm,
        "fraction": fraction,
        "labels": round(600 * fraction),
        "repetition": repetition,
        "fold": 0,
        "seed": 1000 * (repetition + 1),
        "steps": 200,
        "warmup_steps": 0 if arm == "random" else 50,
        "learning_rate": 1e-3,
        "attempts": 1,
        "seconds": 12.5,
        "status": "ok",
        "start": "imagenet" if arm in GIVEN else "none",
        "pretrained_on": {"none": "none", "imagenet": "given"}.get(task, "fold"),
        "train_images": 600,
        "validation_images": 100,
        "test_images": len(rows),
        "qw_kappa": kappa,
        "qw_kappa_low": kappa - 0.08,
        "qw_kappa_high": kappa + 0.07,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy - 0.05,
        "grade_mae": float(np.mean(np.abs(truth - predictions))),
        "keras_ssl": "0.1.0",
        "keras": "3.15.1",
        "backend": "torch",
        "backend_version": "2.13.0",
        "numpy": "2.3.0",
        "python": "3.11.2",
        "test_rows": rows.tolist(),
        "test_grades": truth.tolist(),
        "test_predictions": predictions.tolist(),
        "curve_steps": steps.tolist(),
        "curve_qw_kappa": (kappa * rise + noise[0]).tolist(),
        "curve_accuracy": (accuracy * (0.4 + 0.6 * rise) + noise[1]).tolist(),
        "curve_loss": (1.4 - 0.7 * rise + noise[2]).tolist(),
    }


def _kappa(truth, predictions):
    counts = np.bincount(truth * GRADES + predictions, minlength=GRADES**2).reshape(GRADES, GRADES)
    return float(quadratic_weighted_kappa(counts))


def failed(record):
    """The same run, had it failed: without metrics, curves and predictions."""
    kept = ("test_images", "test_rows")
    lost = {key for key in record if key.startswith(("curve_", "test_")) and key not in kept}
    metrics = {"qw_kappa", "qw_kappa_low", "qw_kappa_high", "accuracy", "balanced_accuracy", "grade_mae"}
    return {key: None if key in metrics else value for key, value in record.items() if key not in lost} | {
        "status": "failed",
        "attempts": 3,
    }
