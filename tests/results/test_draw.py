"""Drawings: what is coloured, what is refused, and where labels go."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppsolo.results import fonts
from ppsolo.results.draw import instance_color
from ppsolo.results.instances import Instances
from ppsolo.results.labels import write_stamp


def make(masks: np.ndarray, labels: list[int] | None = None, names: tuple[str, ...] = ("thing", "цвет")) -> Instances:
    n = len(masks)
    return Instances.from_masks(
        masks,
        scores=np.linspace(0.9, 0.1, n),
        labels=np.zeros(n, int) if labels is None else np.array(labels),
        class_names=names,
        category_ids=range(len(names)),
    )


def blobs(n: int, size: tuple[int, int], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    masks = np.zeros((n, *size), np.uint8)
    for mask in masks:
        center = (int(generator.integers(size[1])), int(generator.integers(size[0])))
        cv2.circle(mask, center, int(generator.integers(1, max(size) // 3 + 2)), 1, -1)
    return masks.astype(bool)


def test_mask_is_tinted_and_the_rest_kept():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    original = image.copy()
    masks = np.zeros((1, 60, 80), bool)
    masks[0, 10:50, 20:60] = True
    drawn = make(masks).draw(image, alpha=0.25, write_labels=False)
    assert np.array_equal(image, original)
    assert drawn.dtype == np.uint8 and drawn.shape == image.shape
    inner = (slice(13, 47), slice(23, 57))
    expected = 0.75 * image[inner] + 0.25 * np.array(instance_color(0))
    assert np.abs(drawn[inner] - expected).max() <= 0.5
    outside = ~cv2.dilate(masks[0].astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert np.array_equal(drawn[outside], image[outside])


def test_outline_has_the_full_colour():
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 10:30, 10:30] = True
    drawn = make(masks).draw(np.zeros((40, 40, 3), np.uint8), alpha=0.0, write_labels=False)
    assert tuple(drawn[10, 20]) == instance_color(0)
    assert not drawn[20, 20].any()


def test_small_instances_lie_on_large_ones_whatever_their_order():
    masks = np.zeros((2, 50, 50), bool)
    masks[0, 20:30, 20:30] = True
    masks[1] = True
    drawn = make(masks).draw(np.zeros((50, 50, 3), np.uint8), alpha=1.0, write_labels=False)
    assert tuple(drawn[25, 25]) == instance_color(0)
    assert tuple(drawn[5, 5]) == instance_color(1)


def test_threshold_and_empty_masks():
    masks = np.zeros((3, 40, 200), bool)
    masks[0, :, 150:] = masks[2, :, :50] = True
    image = np.zeros((40, 200, 3), np.uint8)
    drawn = make(masks).draw(image, score_threshold=0.3)
    assert drawn[:, 150:].any() and not drawn[:, :50].any()
    assert np.array_equal(make(masks)[1:2].draw(image), image)


def test_colours_by_class():
    masks = np.zeros((2, 30, 30), bool)
    masks[0, :, :10] = masks[1, :, 20:] = True
    image = np.zeros((30, 30, 3), np.uint8)
    instances = make(masks, labels=[1, 1])
    drawn = instances.draw(image, alpha=1.0, color_by="class", write_labels=False)
    assert tuple(drawn[15, 5]) == tuple(drawn[15, 25]) == instance_color(1)
    drawn = instances.draw(image, alpha=1.0, write_labels=False)
    assert tuple(drawn[15, 5]) != tuple(drawn[15, 25])


def test_colours_are_fixed_bright_and_apart():
    assert [instance_color(i) for i in range(3)] == [instance_color(i) for i in range(3)]
    colors = np.array([instance_color(i) for i in range(12)])
    assert colors.min() >= 0 and colors.max() <= 255
    assert (colors @ [0.299, 0.587, 0.114]).min() > 80
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(12)
    assert distances.min() > 40
    assert len({instance_color(i) for i in range(100)}) == 100


def test_label_stands_over_its_box():
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 100:150, 100:200] = True
    image = np.zeros((200, 300, 3), np.uint8)
    bare = make(masks).draw(image, write_labels=False)
    labelled = make(masks).draw(image)
    y, x = np.nonzero((labelled != bare).any(axis=2))
    assert y.max() < 102 and y.min() > 70 and x.min() == 100
    assert (labelled[y.min(), x.min() : x.max() + 1] == instance_color(0)).all()


@pytest.mark.parametrize("corner", ["top", "bottom", "left", "right"])
def test_labels_stay_inside_the_image(corner):
    masks = np.zeros((1, 200, 300), bool)
    strips = {"top": np.s_[:3], "bottom": np.s_[-3:], "left": np.s_[:, :3], "right": np.s_[:, -3:]}
    masks[0][strips[corner]] = True
    image = np.zeros((200, 300, 3), np.uint8)
    changed = make(masks).draw(image) != make(masks).draw(image, write_labels=False)
    y, x = np.nonzero(changed.any(axis=2))
    middle = np.zeros((1, 200, 300), bool)
    middle[0, 100:150, 100:200] = True
    whole = make(middle).draw(image) != make(middle).draw(image, write_labels=False)
    whole_y, whole_x = np.nonzero(whole.any(axis=2))
    # as large as in the middle of the image, but for the side that its own outline may share with it
    assert np.ptp(x) >= np.ptp(whole_x) - 4 and np.ptp(y) >= np.ptp(whole_y) - 4


def test_labels_of_neighbours_keep_apart():
    masks = np.zeros((2, 300, 400), bool)
    masks[:, 100:200, 100:200] = True
    image = np.zeros((300, 400, 3), np.uint8)
    instances = make(masks)
    difference = instances.draw(image) != instances.draw(image, write_labels=False)
    alone = instances[:1].draw(image) != instances[:1].draw(image, write_labels=False)
    assert np.count_nonzero(difference.any(axis=2)) > 1.7 * np.count_nonzero(alone.any(axis=2))


def test_names_in_other_scripts_are_drawn_and_others_become_their_number(monkeypatch, caplog):
    pytest.importorskip("PIL")
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 100:150, 100:200] = True
    image = np.zeros((200, 300, 3), np.uint8)
    number = make(masks, labels=[1], names=("thing", "class 1")).draw(image)
    assert not np.array_equal(make(masks, labels=[1]).draw(image), number)  # Cyrillic, which DejaVu has
    unknown = make(masks, labels=[1], names=("thing", "\U0010fffd")).draw(image)  # of private use: in no font
    assert np.array_equal(unknown, number)
    assert "cannot be drawn" in caplog.text and "PPSOLO_FONT" in caplog.text


@pytest.fixture
def own_font(tmp_path, monkeypatch) -> Path:
    """A font with two Chinese letters, a square and a bar, as the user's choice of PPSOLO_FONT."""
    builder = pytest.importorskip("fontTools.fontBuilder", reason="fontTools comes with matplotlib")
    pen_of = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen
    corners = {".notdef": (0, 0, 50, 50), "square": (100, 0, 900, 800), "bar": (400, 0, 600, 800)}
    glyphs = {}
    for name, (left, low, right, high) in corners.items():
        pen = pen_of(None)
        pen.moveTo((left, low))
        for point in ((left, high), (right, high), (right, low)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord("划"): "square", ord("痕"): "bar"})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Two letters", "styleName": "Regular"})
    font.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    font.setupPost()
    font.save(tmp_path / "two.ttf")
    monkeypatch.setenv("PPSOLO_FONT", str(tmp_path / "two.ttf"))
    return tmp_path / "two.ttf"


@pytest.fixture
def fresh_fonts() -> Iterator[None]:
    """Fonts are looked for anew, now and after the test."""
    cached = (fonts._font_files, fonts.font_of, fonts.drawable_name, fonts._font)
    for one in cached:
        one.cache_clear()
    yield
    for one in cached:
        one.cache_clear()


def test_chinese_names_are_drawn_by_a_font_that_has_them(own_font, fresh_fonts):
    pytest.importorskip("PIL")
    assert fonts.font_of("划") == fonts.font_of("痕") == str(own_font) != fonts.font_of("я")
    assert fonts.drawable_name("划痕", 7) == "划痕"
    ink, base = fonts.render("划痕", 40)
    columns = (ink[base - 5] > 128).nonzero()[0]
    assert len(columns) == pytest.approx(40 * (0.8 + 0.2), abs=2)  # the square, then the bar
    mixed, _ = fonts.render("划 я", 40)  # each letter by a font that has it
    assert mixed.shape[1] > 40 and (mixed[:, 45:] > 0).any()
    # What no font has falls back to the number, and says what to do.
    assert fonts.drawable_name("划痕\U0010fffd", 7) == "class 7"


def test_chinese_names_are_drawn_by_a_font_of_the_system(fresh_fonts, monkeypatch):
    monkeypatch.delenv("PPSOLO_FONT", raising=False)
    pytest.importorskip("PIL")
    if fonts.font_of("划") is None:
        pytest.skip("no font of this system has Chinese letters: apt-get install fonts-wqy-microhei")
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 100:150, 100:200] = True
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = [make(masks, labels=[1], names=("thing", name)).draw(image) for name in ("划痕", "痕划", "class 1")]
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def labelled_pixels(instances: Instances, image: np.ndarray) -> int:
    return int((instances.draw(image) != instances.draw(image, write_labels=False)).any(axis=2).sum())


def spots(n: int) -> np.ndarray:
    """n masks far from each other, in an image of 1000 x 1000."""
    masks = np.zeros((n, 1000, 1000), bool)
    for index, mask in enumerate(masks):
        y, x = 70 * (index // 14) + 50, 70 * (index % 14) + 10
        mask[y : y + 8, x : x + 8] = True
    return masks


def test_labels_shrink_beyond_thirty_and_go_beyond_a_hundred():
    image = np.zeros((1000, 1000, 3), np.uint8)
    each = [labelled_pixels(make(spots(n)), image) / n for n in (30, 60, 100)]
    assert each[0] > 1.5 * each[1] > 1.5 * each[2] > 0
    assert labelled_pixels(make(spots(101)), image) == 0


def scattered(n: int) -> np.ndarray:
    """n discs at random in an image of 600 x 800, larger where they are few."""
    masks = np.zeros((n, 600, 800), np.uint8)
    generator = np.random.default_rng(n)
    for mask in masks:
        x, y = (int(generator.integers(limit)) for limit in (800, 600))
        cv2.circle(mask, (x, y), int(generator.integers(40, 80) * (5 / n) ** 0.5) + 3, 1, -1)
    return masks.astype(bool)


@pytest.mark.parametrize(("n", "least", "most"), [(5, 0.01, 0.1), (50, 0.05, 0.25), (300, 0, 0)])
def test_drawings_of_few_and_many_objects_can_be_read(n, least, most):
    """Labels take a bounded share of the picture, and every one is written or left out as a whole."""
    image = np.full((600, 800, 3), 90, np.uint8)
    instances = make(scattered(n), labels=[i % 2 for i in range(n)], names=("thing", "other"))
    assert least <= labelled_pixels(instances, image) / image[..., 0].size <= most
    alone = make(scattered(n), names=("thing",))
    assert labelled_pixels(alone, image) <= 0.7 * labelled_pixels(instances, image)  # scores without names
    tinted = (instances.draw(image, write_labels=False) != image).any(axis=2)
    assert (tinted >= cv2.erode(instances.masks.any(axis=0).astype(np.uint8), np.ones((3, 3)))).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (24, 32), (480, 640), (3000, 4000)])
def test_a_stamp_fits_any_picture(size):
    canvas = np.full((*size, 3), 90, np.uint8)
    write_stamp(canvas, "NOT A RESULT")
    assert (canvas[-1] == 255).any()
    if min(size) >= 24:
        assert (canvas[-2:] == 255).all()
        ink = (canvas < 128).any(axis=2)[-(size[0] // 6) :]
        assert ink.any() and (canvas[: size[0] // 2] == 90).all()


def test_one_class_writes_no_names():
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 100:150, 100:200] = True
    image = np.zeros((200, 300, 3), np.uint8)
    alone, of_two = make(masks, names=("thing",)), make(masks)
    assert np.array_equal(alone.draw(image), of_two.draw(image, write_names=False))
    assert np.array_equal(alone.draw(image, write_names=True), of_two.draw(image))
    assert not np.array_equal(alone.draw(image), of_two.draw(image))


def test_a_legend_lists_the_classes_in_their_colours():
    masks = np.zeros((3, 200, 300), bool)
    masks[:, 150:160, 200:210] = True
    image = np.zeros((200, 300, 3), np.uint8)
    instances = make(masks, labels=[1, 0, 1])
    drawn = instances.draw(image, color_by="class", legend=True, write_labels=False)
    corner = {tuple(pixel) for pixel in drawn[:60, :40].reshape(-1, 3)}
    assert {instance_color(0), instance_color(1)} <= corner
    assert not instances.draw(image, color_by="class", write_labels=False)[:60, :40].any()
    with pytest.raises(ValueError, match="color_by must be 'class'"):
        instances.draw(image, legend=True)


def test_edges_are_smooth():
    """The outline of a slanted edge has levels in between, the inside has the plain tint."""
    masks = np.tril(np.ones((200, 200), bool))[None]
    drawn = make(masks).draw(np.zeros((200, 200, 3), np.uint8), alpha=1.0, write_labels=False)
    levels = drawn[90:110, 80:120, 1]
    assert ((levels > 0) & (levels < instance_color(0)[1])).any()
    assert tuple(drawn[150, 20]) == instance_color(0) and not drawn[20, 150].any()


def specks(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A ragged mask of many specks of all sizes, bool [1, height, width]."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(size, np.float32), (0, 0), 1.6)
    return noise[None] > np.quantile(noise, 0.8)


def test_the_contours_of_a_mask_do_not_affect_each_other():
    both = np.zeros((1, 60, 140), bool)
    both[:, :, :60], both[:, :, 80:] = specks(0, (60, 60)), specks(1, (60, 60))
    both[0, [0, 0, -1, -1], [0, -1, 0, -1]] = True  # the corners: all masks have the same box
    left, right = both.copy(), both.copy()
    left[:, 1:-1, 80:] = right[:, 1:-1, :60] = False
    image = np.random.default_rng(2).integers(0, 256, (60, 140, 3), np.uint8)
    drawn, one, other = (make(mask).draw(image, write_labels=False) for mask in (both, left, right))
    assert np.array_equal(drawn[:, :70], one[:, :70]) and np.array_equal(drawn[:, 70:], other[:, 70:])
    assert not np.array_equal(drawn, one) and not np.array_equal(drawn, other)


def test_the_work_in_python_does_not_grow_with_the_specks():
    mask = specks(0, (400, 400))
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    instances, image = make(mask), np.zeros((400, 400, 3), np.uint8)
    sys.setprofile(count)
    try:
        instances.draw(image, write_labels=False)
    finally:
        sys.setprofile(None)
    assert cv2.connectedComponents(mask[0].view(np.uint8))[0] > 500 and calls < 1000


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (5, 7), (2000, 10), (10, 2000), (64, 48), (700, 900)])
def test_any_size_is_drawn(size):
    image = np.full((*size, 3), 128, np.uint8)
    instances = make(blobs(12, size, seed=1), labels=[0, 1] * 6)
    drawn = instances.draw(image)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn != image).any()
    assert np.array_equal(drawn, instances.draw(image))
    assert np.array_equal(instances.draw(image[:, ::-1]), instances.draw(image))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 5, 1), np.uint8),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5, 3), np.float32),
        [[[0, 0, 0]]],
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match=r"uint8 RGB array \[height, width, 3\]"):
        make(np.ones((1, 4, 5), bool)).draw(image)


def test_other_sizes_and_options_are_refused():
    instances = make(np.ones((1, 4, 5), bool))
    with pytest.raises(ValueError, match=r"image has size \(5, 4\).*\(4, 5\)"):
        instances.draw(np.zeros((5, 4, 3), np.uint8))
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="alpha"):
        instances.draw(image, alpha=1.5)
    wrong: Any = "score"
    with pytest.raises(ValueError, match="color_by"):
        instances.draw(image, color_by=wrong)


def test_long_and_blank_names_can_be_drawn():
    assert fonts.drawable_name("n" * 10_000_000, 7) == "n" * 100 + "..." and fonts.drawable_name(" ", 7) == "class 7"
