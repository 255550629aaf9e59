"""Prediction over directories, patterns and videos: results, drawings, failures, exit codes."""

import csv
import io
import json
import re

import cv2
import numpy as np
import pytest
from busy import busy_model
from pycocotools import mask as coco_mask
from real_files import case

from ppsolo import load_config, save_weights
from ppsolo.cli import main
from ppsolo.data.images import read_image, write_image
from ppsolo.data.videos import VideoWriter
from ppsolo.errors import ImageError
from ppsolo.results.files.names import FORMAT_NAMES


@pytest.fixture(scope="module")
def system(tmp_path_factory, tiny):
    """Command-line arguments that choose a tiny system which finds something."""
    folder = tmp_path_factory.mktemp("system")
    overrides = {**tiny, "num_classes": 80}
    model = busy_model(load_config("solov2_r50_fpn_1x", overrides))
    save_weights(model, folder / "tiny.pdparams")
    return ["-c", "solov2_r50_fpn_1x", "-o", f"weights={folder / 'tiny.pdparams'}"] + [
        f"{key}={value}" for key, value in overrides.items()
    ]


def picture(seed: int, height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed, name in enumerate(["000000000042.jpg", "a.png", "b.bmp"]):
        path = pictures / name
        if path.suffix == ".bmp":
            cv2.imwrite(str(path), picture(seed))
        else:
            write_image(path, picture(seed))
    return pictures


def results_of(output) -> list[dict]:
    return json.loads((output / "predictions.json").read_text())


def test_a_directory(system, folder, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--infer_dir", str(folder), "--output_dir", str(output), "--save_results", "--batch_size", "2"]
    assert main(["infer", *system, *arguments]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "000000000042.jpg",
        "a.png",
        "b.png",
        "predictions.json",
    ]
    entries = results_of(output)
    assert {(entry["image_id"], entry["file_name"]) for entry in entries} == {
        (42, "000000000042.jpg"),
        (0, "a.png"),
        (1, "b.bmp"),
    }
    for entry in entries:
        assert set(entry) == {"image_id", "file_name", "category_id", "segmentation", "score", "bbox"}
        assert entry["segmentation"]["size"] == [60, 90]
        assert 1 <= entry["category_id"] <= 90
        x, y, width, height = coco_mask.toBbox(entry["segmentation"])
        assert entry["bbox"] == pytest.approx([x, y, width, height])
    assert f"{len(entries)} instances in 3 images" in capsys.readouterr().out


def test_the_drawing_threshold_filters_pictures_only(system, folder, tmp_path, capsys):
    for threshold in ("0", "1"):
        arguments = ["--infer_dir", str(folder), "--output_dir", str(tmp_path / threshold), "--save_results"]
        assert main(["infer", *system, *arguments, "--draw_threshold", threshold]) == 0
    number = len(results_of(tmp_path / "0"))
    lines = [line for line in capsys.readouterr().out.splitlines() if " instances in " in line]
    every = f"{number} with a score of at least 0.0 are drawn in {tmp_path}/0"
    assert lines[0] == f"{number} instances in 3 images; {every}"
    none = f"0 with a score of at least 1.0 are drawn in {tmp_path}/1 (lower --draw_threshold to see more)"
    assert lines[1] == f"{number} instances in 3 images; {none}"
    assert results_of(tmp_path / "0") == results_of(tmp_path / "1")
    np.testing.assert_array_equal(read_image(tmp_path / "1" / "a.png"), read_image(folder / "a.png"))
    assert not np.array_equal(read_image(tmp_path / "0" / "a.png"), read_image(folder / "a.png"))


def test_a_broken_picture_is_named_and_the_others_go_on(system, folder, tmp_path, capsys):
    (folder / "broken.jpg").write_text("no picture")
    output = tmp_path / "out"
    assert main(["infer", *system, "--infer_dir", str(folder), "--output_dir", str(output), "--save_results"]) == 1
    assert len({entry["file_name"] for entry in results_of(output)}) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ppsolo: error")]
    assert len(errors) == 1 and "broken.jpg" in errors[0]


def test_a_picture_that_cannot_be_drawn_does_not_stop_the_others(system, folder, tmp_path, capsys):
    write_image(folder / "wide.png", picture(0, 4, 70_000))
    (folder / "wide.png").rename(folder / "wide.jpg")  # read by its content, but no JPEG is as wide
    output = tmp_path / "out"
    assert main(["infer", *system, "--infer_dir", str(folder), "--output_dir", str(output), "--save_results"]) == 1
    assert (output / "a.png").exists() and (output / "b.png").exists()
    assert "in 4 images" in (captured := capsys.readouterr()).out and "wide.jpg" in captured.err


def test_nothing_found_is_an_empty_list(system, folder, tmp_path):
    arguments = ["--infer_img", str(folder / "a.png"), "--output_dir", str(tmp_path / "out"), "--save_results"]
    assert main(["infer", *system, "postprocess.score_threshold=1.0", *arguments]) == 0
    assert results_of(tmp_path / "out") == []
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png"), read_image(folder / "a.png"))


def test_a_pattern_and_two_files_of_one_name(system, folder, tmp_path):
    (folder / "more").mkdir()
    write_image(folder / "more" / "a.png", picture(9))
    arguments = ["--infer_img", str(folder / "**" / "*.png"), "--output_dir", str(tmp_path / "out"), "--save_results"]
    write_image(folder / "more" / "c.png", picture(8))
    assert main(["infer", *system, *arguments]) == 0
    drawings = ["a.png", "a_2.png", "c.png", "predictions.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == drawings
    named = {(entry["image_id"], entry["file_name"]) for entry in results_of(tmp_path / "out")}
    assert {name for _, name in named} == {str(folder / "a.png"), str(folder / "more" / "a.png"), "c.png"}
    assert len(named) == 3


def test_names_as_long_as_can_be(system, folder, tmp_path):
    for letter in "xy\udcff":
        write_image(folder / f"{251 * letter}.png", picture(5))
    write_image(folder / f"{'x' * 250}z.png", picture(7))  # cut to the same name
    formats = sorted(FORMAT_NAMES)
    arguments = ["--infer_dir", str(folder), "--output_dir", str(tmp_path / "out"), "--save", *formats]
    assert main(["infer", *system, *arguments]) == 0
    assert len(list((tmp_path / "out" / "labelme").iterdir())) == 7
    assert len({entry["file_name"] for entry in results_of(tmp_path / "out")}) == 7


def test_a_video(system, tmp_path, capsys):
    with VideoWriter(tmp_path / "clip.mp4", fps=5, size=(60, 90)) as video:
        for seed in range(3):
            video.write(picture(seed))
    output = tmp_path / "out"
    arguments = ["--infer_img", str(tmp_path / "clip.mp4"), "--output_dir", str(output), "--save_results"]
    assert main(["infer", *system, *arguments, "--batch_size", "2"]) == 0
    assert (output / "clip.mp4").stat().st_size > 0
    assert {entry["image_id"] for entry in results_of(output)} <= {0, 1, 2}
    assert "in 3 images" in capsys.readouterr().out


def test_a_damaged_video_keeps_what_was_read(system, tmp_path, capsys):
    """The last three frames are overwritten: FFmpeg drops them."""
    with VideoWriter(tmp_path / "clip.mp4", fps=5, size=(60, 90)) as video:
        for seed in range(6):
            video.write(picture(seed))
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    frames = [found.start() for found in re.finditer(rb"\x00\x00\x01\xb6", data)]
    assert len(frames) == 6
    end = data.index(b"moov") - 4
    data[frames[3] : end] = bytes(end - frames[3])
    (tmp_path / "clip.mp4").write_bytes(data)
    output = tmp_path / "out"
    arguments = ["--infer_img", str(tmp_path / "clip.mp4"), "--output_dir", str(output), "--save_results"]
    assert main(["infer", *system, *arguments]) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("ppsolo: error")]
    assert errors == [f"ppsolo: error: {tmp_path / 'clip.mp4'}: damaged or cut short, 3 of 6 frames could be read"]
    assert "in 3 images" in captured.out and (output / "clip.mp4").exists()
    assert {entry["image_id"] for entry in results_of(output)} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--infer_img", "missing.jpg"], "missing.jpg"),
        (["--infer_dir", "missing"], "missing"),
        (["--infer_img", "{folder}/a.png", "--draw_threshold", "2"], "--draw_threshold is 2.0"),
        (["--infer_img", "{folder}/a.png", "--batch_size", "0"], "--batch_size is 0"),
        (["--infer_img", "{folder}/a.png", "--output_dir", "{folder}"], "choose another --output_dir"),
        (["--infer_img", "{folder}/a.png", "--output_dir", "{folder}/a.png/x"], "choose another --output_dir"),
    ],
)
def test_refusals_are_one_line(system, folder, tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["infer", *system, *(argument.format(folder=folder) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error and "\n" not in error and error.startswith("ppsolo: error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_output_directory_is_looked_at_before_the_weights(folder, capsys):
    arguments = ["-c", "solov2_r50_fpn_1x", "-o", "weights=gone.pdparams", "--infer_dir", str(folder)]
    assert main(["infer", *arguments, "--output_dir", str(folder)]) == 2
    assert "choose another --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["broken.mp4", "broken.png"])
def test_an_input_that_cannot_be_read_leaves_no_folder(system, tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"no picture and no video")
    command = ["infer", *system, "--source", str(tmp_path / name), "--output_dir", str(tmp_path / "new" / "out")]
    assert main(command) in (1, 2)
    assert name in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_model_that_cannot_be_opened_leaves_no_folder(folder, tmp_path, capsys):
    command = ["infer", "-c", "compact", "-o", "weights=gone.pdparams", "--source", str(folder)]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    assert "gone.pdparams" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_wrong_configuration_or_checkpoint_is_one_line(folder, tmp_path, capsys):
    wrong = tmp_path / "wrong.pdparams"
    wrong.write_bytes(b"\x80\x04cos\nsystem\n.")
    image = ["--infer_img", str(folder / "a.png"), "--output_dir", str(tmp_path / "out")]
    for arguments, expected in (
        (["-c", "solov2_r50_fpn_9x"], "solov2_r50_fpn_9x"),
        (["-c", "solov2_r50_fpn_1x", "-o", "nonsense=1"], "nonsense"),
        (["-c", "solov2_r50_fpn_1x"], "has no weights"),
        (["-c", "solov2_mobilenetv3_fpn_448_3x", "-o", f"weights={wrong}"], "wrong.pdparams"),
        (["-c", "solov2_r50_fpn_1x", "-o", "weights=gone.pdparams"], "gone.pdparams: no such file"),
    ):
        assert main(["infer", *arguments, *image]) == 2
        error = capsys.readouterr().err.strip()
        assert expected in error and "\n" not in error


def test_results_in_every_format(system, folder, tmp_path):
    for package in ("roifile", "pyarrow"):
        pytest.importorskip(package)
    output = tmp_path / "out"
    arguments = ["--infer_dir", str(folder), "--output_dir", str(output), "--pixel_size", "0.5", "--save"]
    assert main(["infer", *system, *arguments, *FORMAT_NAMES]) == 0
    entries = results_of(output)
    rows = list(csv.DictReader((output / "instances.csv").open(encoding="utf-8")))
    assert len(rows) == len(entries) > 0
    assert {row["file_name"] for row in rows} == {entry["file_name"] for entry in entries}
    assert all(float(row["area_um2"]) == 0.25 * int(row["area_px"]) for row in rows)
    assert all(row["mean_intensity"] for row in rows if int(row["area_px"]))
    stems = ["000000000042", "a", "b"]
    for name, suffix in (("labelme", ".json"), ("label_map", ".png"), ("geojson", ".geojson"), ("imagej", ".zip")):
        assert sorted(path.name for path in (output / name).iterdir()) == [stem + suffix for stem in stems]
    linked = json.loads((output / "labelme" / "a.json").read_text())["imagePath"]
    assert (output / "labelme" / linked).resolve() == (folder / "a.png").resolve()


def test_wrong_formats_and_pixel_sizes_are_refused(system, folder, tmp_path, capsys):
    arguments = ["infer", *system, "--infer_dir", str(folder), "--output_dir", str(tmp_path / "out")]
    assert main([*arguments, "--pixel_size", "0"]) == 2
    assert "--pixel_size is 0.0: give a number above zero" in capsys.readouterr().err
    assert main([*arguments, "--pixel_size", "1e308", "--save", "csv"]) == 2
    assert "--pixel_size is 1e+308: give a number above zero, at most 1e+12" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--save", "cocoa"])


def test_tiles(system, tmp_path, capsys):
    """A large file that is only predicted on is read part by part, and answers as the whole picture does."""
    tifffile = pytest.importorskip("tifffile")
    large = tmp_path / "large.tif"
    tifffile.imwrite(large, picture(0, 150, 200), photometric="rgb", tile=(64, 64))
    tiles = ["--tile", "96", "--overlap", "32", "--save", "coco", "-o", "postprocess.max_instances=9"]
    for name, more in (("drawn", []), ("parts", ["--no_draw"])):
        output = tmp_path / name
        assert main(["infer", *system, *tiles, "--source", str(large), "--output_dir", str(output), *more]) == 0
    assert "tiles of 96 pixels, overlap 32" in capsys.readouterr().out
    assert results_of(tmp_path / "parts") == results_of(tmp_path / "drawn") != []
    assert (tmp_path / "drawn" / "large.png").is_file()
    assert main(["infer", *system, "--source", str(large), "--tile", "96", "--overlap", "90"]) == 2
    assert "overlap is 90" in capsys.readouterr().err


def lines_of(output) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def test_the_case_of_suffixes(system, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["infer", *system, "--source", str(case("directory_suffixes", "in")), "--output_dir", str(output)]) == 0
    drawn = {"a.jpg", "b.png", "c.png", "d.png", "i.png", "j.png"}
    assert {path.name for path in output.iterdir()} == drawn and "in 6 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "frames", "end"),
    [
        (("video_edit_list", "trimmed.mp4"), 12, 1.3),
        (("video_variable_rate", "vfr.mkv"), 23, 1.95),
        (("video_variable_rate", "dropped_frames.avi"), 10, 0.9),
    ],
)
def test_videos_of_the_cases(system, tmp_path, capsys, file, frames, end):
    output, few = tmp_path / "out", ["-o", "postprocess.max_instances=5"]
    assert (
        main(["infer", *system, "--source", str(case(*file)), "--output_dir", str(output), "--save", "coco", *few]) == 0
    )
    captured = capsys.readouterr()
    assert f"in {frames} images" in captured.out and "damage" not in captured.out + captured.err
    lines = lines_of(output)
    assert [line["frame"] for line in lines] == list(range(frames))
    assert lines[0]["time"] == 0 and lines[-1]["time"] == pytest.approx(end, abs=0.002)
    assert all(line["video"] == file[1] and line["width"] > 0 for line in lines)
    entries = [entry for line in lines for entry in line["instances"]]
    assert len(entries) == len(results_of(output))
    assert set(entries[0]) == {"category_id", "category_name", "segmentation", "score", "bbox"}
    assert (output / file[1]).with_suffix(".mp4").exists()


def test_what_a_folder_run_leaves_out_is_named_and_counted(system, folder, tmp_path, capsys):
    (folder / "scan.pdf").write_bytes(b"%PDF-1.4")
    (folder / "clip.mts").write_bytes(b"")
    for name in ("a.json", "b.json", "notes.txt"):
        (folder / name).write_text("{}")
    (folder / "inside").mkdir()
    assert main(["infer", *system, "--infer_dir", str(folder), "--output_dir", str(tmp_path / "out"), "--no_draw"]) == 1
    captured = capsys.readouterr()
    assert "scan.pdf: left out, not a picture" in captured.err and "clip.mts: left out, a video" in captured.err
    assert f"{folder}: 3 annotation or text files skipped (2 .json, 1 .txt)" in captured.out
    assert f"{folder}: 1 folder inside not searched; '{folder}/**' includes them" in captured.out
    assert "2 files left out" in captured.err and "in 3 images; none are drawn" in captured.out
    assert not (tmp_path / "out").exists()
    for name in ("scan.pdf", "clip.mts"):
        (folder / name).unlink()
    assert main(["infer", *system, "--source", str(folder), "--output_dir", str(tmp_path / "out"), "--no_draw"]) == 0
    assert "3 annotation or text files skipped" in capsys.readouterr().out


def test_lists_on_standard_input(system, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'a.png'}\n{folder / 'b.bmp'}\n{folder / 'gone.png'}\n"))
    output = tmp_path / "out"
    assert main(["infer", *system, "--source", "-", "--output_dir", str(output), "--save", "coco"]) == 1
    captured = capsys.readouterr()
    assert "in 2 images" in captured.out and "gone.png: no such file" in captured.err


def test_a_video_that_cannot_be_drawn_keeps_its_results(system, tmp_path, monkeypatch, capsys):
    with VideoWriter(tmp_path / "clip.mp4", fps=5, size=(60, 90)) as video:
        for seed in range(3):
            video.write(picture(seed))

    def refuse(*arguments: object, **options: object) -> None:
        raise ImageError("clip.mp4: OpenCV cannot write mp4v")

    monkeypatch.setattr("ppsolo.infer.video.VideoWriter", refuse)
    output = tmp_path / "out"
    arguments = ["--source", str(tmp_path / "clip.mp4"), "--output_dir", str(output), "--save", "coco", "csv"]
    assert main(["infer", *system, *arguments, "--max_frames", "2"]) == 1
    assert "the video is not drawn, results continue" in capsys.readouterr().err
    assert len(lines_of(output)) == 2 and (output / "instances.csv").exists() and not (output / "clip.mp4").exists()


def test_drawings_without_names_or_in_the_colours_of_classes(system, folder, tmp_path):
    write_image(folder / "large.png", picture(3, 300, 400))
    few = ["-o", "postprocess.max_instances=3"]
    drawn = {}
    for name, flags in (
        ("plain", []),
        ("scores", ["--draw", "scores"]),
        ("none", ["--draw", "none"]),
        ("class", ["--color", "class", "--draw", "none"]),
        ("legend", ["--legend", "--draw", "none"]),
    ):
        arguments = ["--source", str(folder / "large.png"), "--output_dir", str(tmp_path / name)]
        assert main(["infer", *system, *few, *arguments, "--draw_threshold", "0", *flags]) == 0
        drawn[name] = read_image(tmp_path / name / "large.png").tobytes()
    different = len(set(drawn.values()))
    assert different == 5


def test_addresses_take_a_flag_and_odd_limits_are_refused(system, folder, tmp_path, capsys):
    for flags, expected in (
        (["--source", "http://127.0.0.1:1/a.png"], "--allow_network"),
        (["--source", "http://127.0.0.1:1/a.png", "--allow_network"], "cannot be fetched"),
        (["--source", str(folder), "--max_frames", "0"], "--max_frames is 0"),
        (["--source", str(folder), "--legend", "--color", "instance"], "--legend"),
    ):
        assert main(["infer", *system, *flags, "--output_dir", str(tmp_path / "out")]) == 2
        assert expected in capsys.readouterr().err


def test_flags_of_paddledetection_by_a_run(system, folder, tmp_path, capsys):
    arguments = ["--infer_dir", str(folder), "--save_results", "True", "--visualize", "False"]
    assert main(["infer", *system, *arguments, "--output_dir", str(tmp_path / "all")]) == 0
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["predictions.json"]
    scores = sorted(entry["score"] for entry in results_of(tmp_path / "all"))
    least = scores[len(scores) // 2]
    some = ["--output_dir", str(tmp_path / "some"), "--save_threshold", repr(least)]
    assert main(["infer", *system, *arguments, *some]) == 0
    assert sorted(entry["score"] for entry in results_of(tmp_path / "some")) == [s for s in scores if s >= least]
