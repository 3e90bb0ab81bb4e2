"""The report of a study from its folder, which knows how it was made."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_ssl._files import write_aside
from keras_ssl.reports.figures import plot_convergence, plot_label_efficiency
from keras_ssl.reports.grades import confusions, plot_confusion
from keras_ssl.reports.page import write_report
from keras_ssl.reports.sections import curves_held

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def report_study(
    records: Iterable[Mapping[str, Any]],
    folder: str | os.PathLike[str],
    *,
    metric: str = "qw_kappa",
    title: str = "How many labels does pretraining save?",
    grade_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    figures: "Mapping[str, Figure] | None" = None,
) -> Path:
    """Write `report.html` into the folder of a study, and its main figures as PNG files beside it.

    These are `label_efficiency.png` and, where records hold what they show, `convergence.png` and
    `confusion.png`. Settings, counts of the data and curves of the pretext are read from the folder.

    Args:
        records: runs of the study, as `keras_ssl.evaluation.label_efficiency` gives them.
        folder: the `output_dir` of the study.
        metric: what arms are compared by.
        title: of the page.
        grade_names: one name per grade or class; numbers by default.
        provenance: where the images come from, by name; stands above what the folder says of them, and in
            place of it under the same name.
        figures: further figures by caption.

    Returns:
        The path of the page.

    Raises:
        ValueError: there are no records of runs that ended well.
        OSError: the folder holds no study.
    """
    records, folder, said = list(records), Path(folder), dict(provenance or {})
    study = json.loads((folder / "study.json").read_text())
    page = write_report(
        records,
        folder / "report.html",
        metric=metric,
        title=title,
        grade_names=grade_names,
        settings=study["settings"],
        provenance={**said, **study["data"], **said},
        pretext_histories=pretext_histories(folder),
        figures=figures,
    )
    drawn = {"label_efficiency.png": plot_label_efficiency(records, metric)}
    curves = curves_held(records, metric)
    if curves:
        drawn["convergence.png"] = plot_convergence(records, curves[0])
    if grade_names is not None and any(record.get("test_predictions") for record in records):
        counted = confusions(records, num_grades=len(grade_names))
        drawn["confusion.png"] = plot_confusion(counted, grade_names)
    for name, figure in drawn.items():
        # The name decides the format, and the file aside bears the same.
        write_aside(folder / name, figure.savefig)
    return page


def pretext_histories(folder: str | os.PathLike[str]) -> dict[str, dict[str, list[float]]]:
    """Read the curves of every pretraining of a study, by the name of its encoder.

    Args:
        folder: the `output_dir` of the study.

    Returns:
        By name, such as `"rotation-r0-f1"`, the values of each quantity by epoch; empty where nothing was
        pretrained there.

    >>> pretext_histories("nowhere")
    {}
    """
    files = sorted((Path(folder) / "encoders").glob("*.json"))
    return {file.stem: json.loads(file.read_text())["history"] for file in files}
