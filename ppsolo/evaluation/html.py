"""An evaluation as one HTML page: tables, charts and pictures in one file, without links to the network."""

import base64
import html
import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ppsolo.atomic import atomic_writer, made_folder
from ppsolo.config import Config
from ppsolo.data.images import read_image
from ppsolo.errors import ConfigError, ImageError, PpsoloError
from ppsolo.evaluation.analysis import SIZE_EDGES, Analysis, PictureQuality, analyze
from ppsolo.evaluation.coco_evaluator import IOU_TYPES
from ppsolo.evaluation.evaluate import Evaluation, EvaluationSet, open_evaluation_set
from ppsolo.evaluation.report import write_report
from ppsolo.evaluation.tide import TIDE_KINDS
from ppsolo.progress import Progress
from ppsolo.results.instances import Instances
from ppsolo.results.rle import read_segmentation
from ppsolo.text import all_counted, storable
from ppsolo.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_PICTURES = 20  # number of the worst pictures, and of the best ones
SHOWN_CLASSES = 20  # in the confusion matrix
SHOWN_CONFUSIONS = 15
_LONGEST_SIDE = 480  # of a picture in the page, in pixels
_CELLS_WITH_NUMBERS = 10  # with more classes, the matrix shows colours only


def check_packages() -> None:
    """Raise ConfigError if matplotlib is not installed; it draws the charts."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--html draws charts with matplotlib: pip install 'ppsolo[report]'")


def write_html(
    evaluation: Evaluation, config: Config, directory: Path, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Write index.html and report.json; return the content of report.json.

    evaluation: must hold its results, see `analyze`. config: the model's, with the data set. Raises PpsoloError.
    """
    check_packages()
    dataset, config = open_evaluation_set(config)
    analysis = analyze(evaluation, dataset)
    report = {**evaluation.report, "analysis": analysis.numbers}
    text = build_page(evaluation, analysis, dataset, config, progress=progress)
    try:
        with made_folder(directory), atomic_writer(directory / "index.html", "w") as stream:
            stream.write(storable(text))  # file names need not be UTF-8
            write_report(report, directory / "report.json")
    except OSError as error:
        raise PpsoloError(f"cannot write {directory / 'index.html'}: {error.strerror or error}") from None
    return report


def build_page(
    evaluation: Evaluation,
    analysis: Analysis,
    dataset: EvaluationSet,
    config: Config,
    *,
    progress: Progress | None = None,
) -> str:
    """The page's HTML."""
    report = evaluation.report
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    pictures = _Pictures(evaluation, analysis, dataset, config)
    number = min(SHOWN_PICTURES, (len(analysis.pictures) + 1) // 2)
    worst, best = analysis.pictures[:number], analysis.pictures[len(analysis.pictures) - number :][::-1]
    best = [picture for picture in best if picture not in worst]
    figures = []
    for done, picture in enumerate([*worst, *best], 1):
        figures.append(pictures.figure(picture))
        if progress is not None:
            progress(done, len(worst) + len(best))
    sizes = (report["images"], "image"), (report["ground_truths"], "object"), (report["detections"], "instance")
    counts = f"{all_counted(*sizes)} found"
    return template.substitute(
        title=html.escape(f"Evaluation of {config.name}"),
        source=html.escape(f"{evaluation.origin}. {evaluation.description}. {report['annotations']}: {counts}."),
        table=_precision_table(report),
        charts="\n".join(_charts(analysis.numbers)),
        classes=_class_table(report, analysis.numbers),
        confusions=_confusion_table(analysis.numbers["confusion"]),
        worst="\n".join(figures[: len(worst)]),
        best="\n".join(figures[len(worst) :]) or "<p>All pictures are shown above.</p>",
        version=html.escape(__version__),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Sequence[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>\n{body}\n</tbody></table>"


def _precision_table(report: Mapping[str, Any]) -> str:
    kinds = [kind for kind in IOU_TYPES if kind in report]
    return _table(["", *report["stat_names"]], [[kind, *map(_percent, report[kind]["stats"])] for kind in kinds])


def _class_table(report: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    head = ["class", "objects", "AP", "AP50", "AP75", "boundary AP", "threshold", "precision", "recall", "F1"]
    rows = []
    boundary = report.get("boundary", {}).get("per_class", report["segm"]["per_class"])
    for one, edge, best in zip(report["segm"]["per_class"], boundary, numbers["thresholds"], strict=True):
        precisions = [_percent(value) for value in (one["AP"], one["AP50"], one["AP75"])]
        edges = _percent(edge["AP"]) if "boundary" in report else "-"
        at_best = [_percent(best[key]) for key in ("precision", "recall", "f1")]
        rows.append([one["name"], one["ground_truths"], *precisions, edges, f"{best['threshold']:.2f}", *at_best])
    return _table(head, rows)


def _confusion_table(confusion: Mapping[str, Any]) -> str:
    names = [*confusion["classes"], "background"]
    matrix = np.array(confusion["matrix"])
    np.fill_diagonal(matrix, 0)
    rows = []
    for place in np.argsort(-matrix, axis=None, kind="stable")[:SHOWN_CONFUSIONS].tolist():
        true, found = divmod(place, len(names))
        if matrix[true, found]:
            said = "nothing found" if found == len(names) - 1 else names[found]
            rows.append(["nothing there" if true == len(names) - 1 else names[true], said, matrix[true, found]])
    return _table(["truth", "found as", "times"], rows) if rows else "<p>None.</p>"


def _charts(numbers: Mapping[str, Any]) -> list[str]:
    charts = [
        ("Precision and recall", "Mean over the classes; the mean of a curve is its AP.", _draw_precision_recall),
        ("F1, precision and recall by score", "All instances at or above a score, at IoU 0.50.", _draw_f1),
        ("Confusion", "Rows are the truth, in per cent of a row. The classes with the most objects.", _draw_confusion),
        ("Calibration", "A calibrated score of 0.8 is right in 80 of 100 cases.", _draw_calibration),
        ("Recall by size", "Size is the square root of the area, in pixels, at IoU 0.50.", _draw_sizes),
    ]
    if numbers["tide"] is not None:
        text = f"TIDE: how much AP50 ({_percent(numbers['tide']['ap50'])}) would rise without these errors."
        charts.insert(3, ("Where AP is lost", text, _draw_tide))
    import matplotlib

    from ppsolo.results.fonts import matplotlib_families

    families = matplotlib_families("".join(numbers["confusion"]["classes"]))
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ppsolo", "font.family": families}):
        drawn = [_chart(title, text, draw, numbers) for title, text, draw in charts]
    if numbers["tide"] is None:
        missing = importlib.util.find_spec("hotcoco") is None
        reason = "hotcoco is missing: <code>pip install 'ppsolo[report]'</code>" if missing else "nothing was found"
        drawn.append(f"<section><h2>Where AP is lost</h2><p>Not computed, {reason}.</p></section>")
    return drawn


def _chart(title: str, text: str, draw: "Callable[[Axes, Mapping[str, Any]], None]", numbers: Mapping[str, Any]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    draw(figure.subplots(), numbers)
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    image = f'<img alt="{html.escape(title)}" src="data:image/svg+xml;base64,{data}">'
    return f"<section><h2>{html.escape(title)}</h2><p class='quiet'>{html.escape(text)}</p>{image}</section>"


def _draw_precision_recall(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    recalls = np.linspace(0, 100, 101)
    for name, values in numbers["precision_recall"].items():
        axes.plot(recalls, 100 * np.array(values), label=f"IoU {name}: AP {100 * np.mean(values):.1f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 100), ylim=(0, 102))
    _finish(axes, legend=bool(numbers["precision_recall"]))


def _draw_f1(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    curve = numbers["f1_curve"]
    best = int(np.argmax(curve["f1"]))
    for name, label in (("f1", "F1"), ("precision", "precision"), ("recall", "recall")):
        axes.plot(
            curve["score"], 100 * np.array(curve[name], np.float64), label=label, linewidth=2.5 if name == "f1" else 1.2
        )
    axes.axvline(curve["score"][best], color="0.6", linestyle=":")
    axes.set_title(f"best F1 {100 * curve['f1'][best]:.1f} at a score of {curve['score'][best]:.2f}", fontsize=10)
    axes.set(xlabel="least score", xlim=(0, 1), ylim=(0, 102))
    _finish(axes)


def _draw_confusion(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    from ppsolo.results.fonts import drawable_name

    matrix = np.array(numbers["confusion"]["matrix"], np.float64)
    chosen = np.sort(np.argsort(-matrix[:-1].sum(axis=1), kind="stable")[:SHOWN_CLASSES])
    chosen = np.append(chosen, len(matrix) - 1)
    names = [drawable_name(name, label) for label, name in enumerate(numbers["confusion"]["classes"])]
    shown = [*(names[label][:18] for label in chosen[:-1]), "background"]
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    share = share[np.ix_(chosen, chosen)]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    size = 9 if len(chosen) <= _CELLS_WITH_NUMBERS else 6
    axes.set_xticks(range(len(shown)), shown, rotation=90 if len(shown) > 5 else 0, fontsize=size)
    axes.set_yticks(range(len(shown)), shown, fontsize=size)
    axes.set(xlabel="found as", ylabel="truth")
    if len(chosen) <= _CELLS_WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(share):
            if row == column == len(chosen) - 1:  # this cell has no meaning: background is not counted
                continue
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")


def _draw_tide(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    kinds = numbers["tide"]["kinds"]
    labels = [f"{TIDE_KINDS[name]} ({kinds[name]['count']})" for name in kinds]
    bars = axes.barh(labels, [100 * kinds[name]["lost"] for name in kinds], color="#c0562f")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="AP50 lost (number of errors in brackets)")


def _draw_calibration(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    values = numbers["calibration"]
    bins = values["bins"]
    width = 1 / len(bins)
    axes.bar([one["from"] + width / 2 for one in bins], [100 * (one["precision"] or 0) for one in bins], 0.9 * width)
    axes.plot([0, 1], [0, 100], color="0.4", linestyle="--")
    for one in bins:
        if one["count"]:
            place = (one["from"] + width / 2, 100 * one["precision"] + 1)
            axes.annotate(str(one["count"]), place, ha="center", fontsize=8)
    if values["error"] is not None:
        axes.set_title(f"expected error {100 * values['error']:.1f}; numbers are instances", fontsize=10)
    axes.set(xlabel="score", ylabel="precision", xlim=(0, 1), ylim=(0, 108))


def _draw_sizes(axes: "Axes", numbers: Mapping[str, Any]) -> None:
    ranges = numbers["recall_by_size"]
    labels = [f"{one['from']}-{one['to']}" if one["to"] else f"from {SIZE_EDGES[-1]}" for one in ranges]
    bars = axes.bar(labels, [100 * (one["recall"] or 0) for one in ranges], color="#3a7d44")
    counts = [f"{one['ground_truths']}" if one["ground_truths"] else "none" for one in ranges]
    axes.bar_label(bars, counts, fontsize=8, padding=2)
    axes.set(xlabel="size in pixels; numbers are objects", ylabel="recall", ylim=(0, 108))


def _finish(axes: "Axes", *, legend: bool = True) -> None:
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(loc="lower left", fontsize=9)


class _Pictures:
    """Draws pictures with the results next to the truth."""

    def __init__(self, evaluation: Evaluation, analysis: Analysis, dataset: EvaluationSet, config: Config):
        self._dataset, self._config = dataset, config
        self._paths = dict(dataset.images)
        self._least = {one.category_id: one.threshold for one in analysis.thresholds}
        shown = {
            picture.image_id for picture in (*analysis.pictures[:SHOWN_PICTURES], *analysis.pictures[-SHOWN_PICTURES:])
        }
        self._entries: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in shown}
        for entry in evaluation.results:
            if entry["image_id"] in shown and entry["score"] >= self._least[entry["category_id"]]:
                self._entries[entry["image_id"]].append(entry)

    def figure(self, picture: PictureQuality) -> str:
        """Return an HTML figure; it says so if the picture can no longer be read."""
        path = self._paths[picture.image_id]
        words = f"{path.name}: quality {100 * picture.quality:.1f}, {picture.found} found, {picture.false} false, "
        words += f"{picture.missed} missed"
        try:
            image = read_image(path)
            found = self._found(picture.image_id, (image.shape[0], image.shape[1]))
            sides = [found, self._dataset.truth_of(picture.image_id, found)]
            drawn = [_jpeg(_drawn(image, side, scores=side is found)) for side in sides]
        except (ImageError, ValueError) as error:
            return f"<figure><figcaption>{html.escape(f'{words}. Not shown: {error}')}</figcaption></figure>"
        images = "".join(
            f'<span>{name}<img loading="lazy" alt="{name}" src="data:image/jpeg;base64,{data}"></span>'
            for name, data in zip(("found", "truth"), drawn, strict=True)
        )
        return f'<figure><figcaption>{html.escape(words)}</figcaption><div class="pair">{images}</div></figure>'

    def _found(self, image_id: Any, size: tuple[int, int]) -> Instances:
        entries, ids = self._entries[image_id], self._config.category_ids
        return Instances(
            rles=[read_segmentation(entry["segmentation"], size) for entry in entries],
            scores=np.array([entry["score"] for entry in entries], np.float32),
            labels=np.array([ids.index(entry["category_id"]) for entry in entries], np.int64),
            size=size,
            class_names=self._config.class_names,
            category_ids=ids,
        )


def _drawn(image: np.ndarray, instances: Instances, *, scores: bool) -> np.ndarray:
    """Draw the instances on the picture, one colour per class; the truth has no scores."""
    several = len(set(instances.labels.tolist())) > 1 or len(instances.class_names) > 1
    if scores or not several:
        return instances.draw(image, color_by="class" if several else "instance", write_labels=scores)
    from ppsolo.results.draw import draw_masks

    return draw_masks(
        image,
        instances.rles,
        size=instances.size,
        scores=instances.scores,
        labels=instances.labels,
        names=instances.names,
        color_by="class",
        write_scores=False,
    )


def _jpeg(image: np.ndarray) -> str:
    """Encode the picture as JPEG in base64, with its longer side at most `_LONGEST_SIDE` pixels."""
    scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
    if scale < 1:
        size = (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return base64.b64encode(data.tobytes()).decode("ascii")
