"""Coverage of confidence intervals in simulated studies with known true curves, without training.

python benchmarks/coverage.py            # all tables, about 20 minutes on one core
python benchmarks/coverage.py --studies 50 --tables saved

Coverage of intervals of nominal 95 %: the mean over cases, each of one pair of true curves and one kind of
noise, the lowest of a case, and the lowest of a row (fraction of the labels) of a case. Width is a part of
the logarithmic range of fractions. `false` is how often `low` says that labels are saved where none are.
"""

import argparse
import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats

from keras_ssl.evaluation import kappa_intervals, labels_saved, paired_differences
from keras_ssl.evaluation.statistics import bootstrap_kappa
from keras_ssl.metrics import quadratic_weighted_kappa

FRACTIONS = np.array((0.05, 0.1, 0.25, 0.5, 1.0))
GRADES = np.array((0.45, 0.15, 0.2, 0.12, 0.08))

Curve = Callable[[np.ndarray], np.ndarray]


def steady(fraction):
    return 0.6 + 0.25 * np.log10(fraction)


def saturating(fraction):
    return 0.75 - 0.25 * np.exp(-fraction / 0.15)


def early(fraction):
    return steady(fraction) + 0.12 * (1 - np.log(fraction / 0.05) / np.log(20))


# Name, curve of the arm, curve of the baseline.
CURVES: dict[str, tuple[Curve, Curve]] = {
    "gain: a third of the labels does": (lambda f: steady(3 * f), steady),
    "no gain": (steady, steady),
    "gain at small fractions only": (early, steady),
    "loss: twice the labels needed": (lambda f: steady(f / 2), steady),
    "gain, saturating curves": (lambda f: saturating(3 * f), saturating),
    "gain up to a ceiling": (
        lambda f: np.minimum(steady(3 * f), 0.55),
        lambda f: np.minimum(steady(f), 0.55),
    ),
    "no gain, flat curves": (lambda f: 0 * f + 0.5, lambda f: 0 * f + 0.5),
}
# Standard deviation between folds 0.03, in all; `noise` between runs.
NOISES: dict[str, dict[str, float | bool]] = {
    "0.02": {"noise": 0.02},
    "0.05": {"noise": 0.05},
    "0.03, correlated folds": {"noise": 0.03, "correlation": 0.2},
    "0.03, more at few labels": {"noise": 0.03, "uneven": True},
    "0.03, a tenth of runs failed": {"noise": 0.03, "failed": 0.1},
    "0.04, heavy tails": {"noise": 0.04, "heavy": True},
    "0.03, skewed below a ceiling": {"noise": 0.03, "skewed": True},
    "0.02, and 0.03 of arm and fold": {"noise": 0.02, "of_arm": 0.03},
}


def study(
    generator: np.random.Generator,
    curves: tuple[Curve, Curve],
    pairs: int,
    noise: float,
    correlation: float = 0.0,
    uneven: bool = False,
    failed: float = 0.0,
    heavy: bool = False,
    skewed: bool = False,
    of_arm: float = 0.0,
) -> np.ndarray:
    """Values `(pairs, 2, fractions)` of arm and baseline, nan where a run failed."""
    means = np.stack([curve(FRACTIONS) for curve in curves])
    shape = (pairs, 2, len(FRACTIONS))
    own = generator.standard_t(3, shape) / math.sqrt(3) if heavy else generator.normal(size=shape)
    shared = generator.normal(size=(1, *shape[1:]))
    size = noise * (np.array([2, 1.6, 1.2, 1, 0.8]) if uneven else 1.0)
    errors = size * (math.sqrt(1 - correlation) * own + math.sqrt(correlation) * shared)
    errors += generator.normal(0, 0.03, (pairs, 1, 1)) + generator.normal(0, of_arm, (pairs, 2, 1))
    values = 1 - (1 - means) * np.exp(-errors / (1 - means)) if skewed else means + errors
    return np.where(generator.random(shape) < failed, math.nan, values)


def records_of(values: np.ndarray, corrected: bool) -> list[dict]:
    return [
        {
            "arm": arm,
            "fraction": fraction,
            "fold": pair if corrected else 0,
            "repetition": 0 if corrected else pair,
            "test_images": 200,
            "train_images": 800,
            "status": "failed" if math.isnan(value) else "ok",
            "qw_kappa": value,
        }
        for pair, lines in enumerate(values)
        for arm, line in zip(("initialized", "random"), lines, strict=True)
        for fraction, value in zip(FRACTIONS.tolist(), line.tolist(), strict=True)
    ]


def truth(curves: tuple[Curve, Curve]) -> np.ndarray:
    """Smallest fraction at which the true curve of the baseline is at that of the arm, inf where nowhere."""
    grid = np.exp(np.linspace(math.log(FRACTIONS[0]), 0, 20_001))
    enough = curves[1](grid) >= curves[0](FRACTIONS)[:, None] - 1e-9
    return np.where(enough.any(axis=1), grid[enough.argmax(axis=1)], math.inf)


def ours(values, corrected, seed):
    rows = labels_saved(records_of(values, corrected), resamples=400, seed=seed)
    # No row where all runs of the arm failed, no ends where too few pairs are left.
    ends = {row["fraction"]: (row["low"], row["high"]) for row in rows}
    return np.array([ends.get(fraction, (None, None)) for fraction in FRACTIONS], "float64").T


def percentile_bootstrap(values, corrected, seed):
    """Resampled means of pairs, made monotonic, one interpolated on the other."""
    from sklearn.isotonic import isotonic_regression

    generator, found = np.random.default_rng(seed), []
    for _ in range(100):
        arm, baseline = map(
            isotonic_regression, values[generator.integers(0, len(values), len(values))].mean(0)
        )
        reached = np.exp(np.interp(arm, baseline, np.log(FRACTIONS)))
        found.append(np.where(arm > baseline[-1] + 1e-9, math.inf, reached))
    return np.quantile(found, [0.025, 0.975], axis=0, method="inverted_cdf")


def interpolated_student(values, corrected, seed, pooled=False):
    """Fractions at which a paired test finds no difference from the baseline, interpolated linearly."""
    grid = np.unique([*np.linspace(math.log(FRACTIONS[0]), 0, 121), *np.log(FRACTIONS)])
    shares = np.array([np.interp(grid, np.log(FRACTIONS), row) for row in np.eye(len(FRACTIONS))])
    differences = values[:, 0, :, None] - (values[:, 1] @ shares)[:, None]
    pairs = len(values)
    freedom, deviation = pairs - 1, differences.std(axis=0, ddof=1)
    if pooled:
        table = values.reshape(pairs, -1)
        residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        freedom = (pairs - 1) * (table.shape[1] - 1)
        deviation = np.sqrt((residuals**2).sum() / freedom * (1 + (shares**2).sum(axis=0)))
    reach = stats.t.ppf(0.975, freedom) * deviation * math.sqrt(1 / pairs + 0.25 * corrected)
    means = differences.mean(axis=0)
    ends = []
    for above, below in zip(means > reach, means < -reach, strict=True):
        low = math.inf if above.all() else np.exp(grid[np.argmin(above)])
        high = math.inf if not below[-1] else np.exp(grid[max(0, len(grid) - 1 - np.argmin(below[::-1]))])
        ends.append((low, FRACTIONS[0] if below.all() else high))
    return np.array(ends).T


def pooled_student(values, corrected, seed):
    return interpolated_student(values, corrected, seed, pooled=True)


CANDIDATES = {
    "labels_saved": ours,
    "percentile bootstrap (before)": percentile_bootstrap,
    "paired t, interpolated": interpolated_student,
    "t of pooled variance, interpolated": pooled_student,
}


def saved(studies: int) -> None:
    """Labels saved: each candidate over all curves and noises, then ours by curve and by noise."""
    found: dict[tuple[str, int, str, str], np.ndarray] = {}
    for pairs in (2, 3, 5, 10):
        for noise, settings in NOISES.items():
            for name, curves in CURVES.items():
                corrected, right = "correlation" in settings, truth(curves)
                generator = np.random.default_rng(0)
                drawn = [study(generator, curves, pairs, **settings) for _ in range(studies)]
                for candidate, function in CANDIDATES.items():
                    if "failed" in settings and function is not ours:
                        continue
                    lows, highs = np.array(
                        [function(values, corrected, seed) for seed, values in enumerate(drawn)]
                    ).transpose(1, 0, 2)
                    # The grid of two candidates has steps of 2.5 %.
                    slack = 1.013
                    known = ~np.isnan(lows)
                    hits = (lows <= right * slack) & (highs >= right / slack)
                    widths = np.log(np.minimum(highs, 1) / np.minimum(lows, 1)) / math.log(20)
                    false = (lows > FRACTIONS * slack) & (curves[0] is curves[1] or "flat" in name)
                    found[candidate, pairs, name, noise] = np.where(
                        known, np.array([hits, widths, false], "float64"), math.nan
                    )
    print("| interval | pairs | coverage | lowest case | lowest row | width | false |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for candidate in CANDIDATES:
        for pairs in (2, 3, 5, 10):
            _print(f"| {candidate} | {pairs} |", [v for k, v in found.items() if k[:2] == (candidate, pairs)])
    for title, place, names in (("true curves", 2, CURVES), ("noise between runs", 3, NOISES)):
        print(f"\n| {title}, `labels_saved` | pairs | coverage | lowest case | lowest row | width | false |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name in names:
            for pairs in (2, 3, 5, 10):
                chosen = [
                    v for k, v in found.items() if k[:2] == ("labels_saved", pairs) and k[place] == name
                ]
                _print(f"| {name} | {pairs} |", chosen)


def _print(start: str, cases: list[np.ndarray]) -> None:
    with warnings.catch_warnings():
        # Rows in which no interval is claimed at all.
        warnings.simplefilter("ignore", RuntimeWarning)
        coverage = [np.nanmean(case[0]) for case in cases]
        rows = np.nanmin([np.nanmean(case[0], axis=0) for case in cases])
        width, false = (np.nanmean([np.nanmean(case[place]) for case in cases]) for place in (1, 2))
    print(
        f"{start} {np.mean(coverage):.3f} | {min(coverage):.3f} | {rows:.3f} | {width:.2f} | {false:.3f} |",
        flush=True,
    )


def bias(studies: int) -> None:
    """Estimate over the truth, at the fractions where the truth lies inside of what was measured."""
    print("\n| true curves | pairs | median of reached_at / truth, noise 0.02 | noise 0.05 |")
    print("| --- | ---: | --- | --- |")
    for name, curves in CURVES.items():
        right = truth(curves)
        inner = np.isfinite(right) & (right > FRACTIONS[0] * 1.01)
        for pairs in (3, 5, 10) if inner.any() else ():
            cells = []
            for noise in ("0.02", "0.05"):
                generator, found = np.random.default_rng(0), []
                for _ in range(2 * studies):
                    records = records_of(study(generator, curves, pairs, **NOISES[noise]), corrected=False)
                    found.append([row["reached_at"] for row in labels_saved(records, resamples=1)])
                medians = np.median(found, axis=0)[inner] / right[inner]
                cells.append(" ".join(f"{median:.2f}" for median in medians))
            print(f"| {name} | {pairs} | {' | '.join(cells)} |", flush=True)


def differences(studies: int) -> None:
    """Paired differences: Student's interval, with and without the correction for folds."""
    print("\n| pairs are | pairs | noise between runs | coverage, plain | coverage, corrected |")
    print("| --- | ---: | --- | ---: | ---: |")
    curves = CURVES["no gain"]
    for kind, folds in (("repetitions", False), ("folds", True)):
        for pairs in (2, 3, 5, 10):
            for name in (
                "0.05",
                "0.04, heavy tails",
                "0.03, skewed below a ceiling",
                "0.03, correlated folds",
            ):
                if ("correlation" in NOISES[name]) != folds:
                    continue
                generator, hits = np.random.default_rng(0), []
                for _ in range(4 * studies):
                    records = records_of(study(generator, curves, pairs, **NOISES[name]), folds)
                    rows = [paired_differences(records, corrected=corrected) for corrected in (False, True)]
                    hits.append([[row["low"] <= 0 <= row["high"] for row in found] for found in rows])
                plain, corrected = np.mean(hits, axis=(0, 2))
                shown = f"{corrected:.3f}" if folds else ""
                print(f"| {kind} | {pairs} | {name} | {plain:.3f} | {shown} |", flush=True)


def kappas(studies: int) -> None:
    """Kappa over test images: one run, and the mean of five folds; alone and two to a patient."""
    print("\n| runs | kappa | test images | coverage, single images | coverage, two to a patient | width |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for runs in (1, 5):
        for spread in (0.4, 1.0, 2.0):
            right = _true_kappa(spread)
            for images in (30, 60, 100, 400) if runs == 1 else (150, 300, 600):
                cells = []
                for size in (1, 2):
                    generator = np.random.default_rng(0)
                    ends = np.array(
                        [_kappa_interval(generator, spread, images, size, runs) for _ in range(2 * studies)],
                        "float64",
                    )
                    known = ends[~np.isnan(ends[:, 0])]
                    hit = np.mean((known[:, 0] <= right) & (right <= known[:, 1])) if len(known) else math.nan
                    cells.append(
                        (hit, len(known) / len(ends), np.diff(known).mean() if len(known) else math.nan)
                    )
                shown = " | ".join(
                    f"{hit:.3f}" + (f" (given in {share:.0%})" if share < 0.995 else "")
                    if share
                    else "none given"
                    for hit, share, _ in cells
                )
                print(f"| {runs} | {right:.2f} | {images} | {shown} | {cells[0][2]:.2f} |", flush=True)


def _true_kappa(spread: float) -> float:
    edges = np.array([-math.inf, *(np.arange(4) + 0.5), math.inf])
    given = np.diff(stats.norm.cdf((edges - np.arange(5)[:, None]) / spread), axis=1)
    return float(quadratic_weighted_kappa(GRADES[:, None] * given))


def _kappa_interval(generator, spread, images, size, runs):
    """Both ends, of images of which `size` belong to one patient, share its grade and half of the error."""
    patients = images // size
    true = np.repeat(generator.choice(5, patients, p=GRADES), size)
    shared = np.repeat(generator.normal(size=patients), size)
    error = (shared + generator.normal(size=images)) / math.sqrt(2)
    given = np.clip(np.rint(true + spread * error), 0, 4).astype(int)
    groups = np.arange(images) // size
    if runs == 1:
        return bootstrap_kappa(true, given, 5, groups, resamples=500)
    parts = np.array_split(np.arange(images), runs)
    records = [
        {
            "arm": "random",
            "fraction": 1.0,
            "fold": fold,
            "test_rows": rows.tolist(),
            "test_groups": groups[rows].tolist(),
            "test_grades": true[rows].tolist(),
            "test_predictions": given[rows].tolist(),
        }
        for fold, rows in enumerate(parts)
    ]
    (row,) = kappa_intervals(records, resamples=500)
    return row["low"], row["high"]


TABLES = {"saved": saved, "bias": bias, "differences": differences, "kappas": kappas}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=200, help="simulated studies of each kind")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    arguments = parser.parse_args()
    for table in arguments.tables:
        TABLES[table](arguments.studies)
