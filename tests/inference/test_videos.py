"""Frames of videos: read, detected, tracked, written; and what a run over them leaves when it is interrupted."""

import json
import sys

import av
import numpy as np
import PIL.Image
import pytest
from helpers.pictures import write_image

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.inference import video_run, videos
from decodetr.inference.picture_run import PredictOptions, PredictRun
from decodetr.inference.sources import Sources, find_sources
from decodetr.inference.tracking import Tracks
from decodetr.inference.videos import Video


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Nine frames of 64 x 48, each of one grey: 20, 40, ..., 180."""
    file = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(1, 10):
            pixels = np.full((48, 64, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file


def greys(source):
    with Video(str(source)) as video:
        return [int(np.asarray(frame.picture).mean()) for frame in video.read()]


def test_frames_have_numbers_times_and_pixels(film):
    with Video(str(film)) as video:
        frames = list(video.read(stride=4))
        assert (video.rate, video.frames) == (10.0, 9)
    assert [(frame.number, frame.seconds) for frame in frames] == [(0, 0.0), (4, 0.4), (8, 0.8)]
    assert all(frame.picture.size == (64, 48) and frame.picture.mode == "RGB" for frame in frames)
    np.testing.assert_allclose([np.asarray(f.picture).mean() for f in frames], [20, 100, 180], atol=6)
    with Video(str(film)) as video:
        assert [frame.number for frame in video.read(2, most=2)] == [0, 2]


def test_what_is_no_video_is_refused(film, tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setenv("DECODETR_MAX_IMAGE_PIXELS", "3000")
        with pytest.raises(ValueError, match="film.mp4: frames of 64 x 48 pixels, more than the 3,000"):
            Video(str(film))
    with monkeypatch.context() as small:
        small.setattr(videos, "MAX_SIDE", 63)
        with pytest.raises(ValueError, match="film.mp4: frames of 64 x 48 pixels, .* or 63 a side"):
            Video(str(film))
    with pytest.raises(FileNotFoundError, match="missing.mp4: no such file"):
        Video(str(tmp_path / "missing.mp4"))
    with av.open(str(tmp_path / "sound.mp4"), "w") as sound:
        stream = sound.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        sound.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(ValueError, match="sound.mp4: expected a video, got a file without pictures"):
        Video(str(tmp_path / "sound.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="text.mp4: expected a video"):
        Video(str(tmp_path / "text.mp4"))
    for name, content in (
        ("list.mp4", f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/other.ts\n"),  # play lists would open other files
        ("concat.mp4", f"ffconcat version 1.0\nfile {tmp_path}/other.ts\n"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="expected a video"):
            Video(str(tmp_path / name))


def test_sources_are_sorted_out(film, tmp_path):
    a, b = write_image(tmp_path / "in" / "a.png"), write_image(tmp_path / "in" / "b.png")
    listed = tmp_path / "in" / "list.txt"
    listed.write_text(f"# two\nb.png\n\n{film}\n{a}\n")
    found = find_sources([listed], tmp_path / "out")
    assert found.pictures == [b, a] and found.videos == [str(film)] and not found.addresses
    for address in ("http://example.org/a.jpg", "rtsp://camera/1", "https://example.org/film.mp4?x=1"):
        with pytest.raises(ValueError, match="addresses are read only with --allow-urls"):
            find_sources([address], tmp_path / "out")
        found = find_sources([address, "camera:0"], tmp_path / "out", allow_urls=True)
        assert len(found.videos) == (1 if address.endswith(".jpg") else 2) and "camera:0" in found.videos
    (file,) = find_sources(["http://example.org/x/a b.jpg"], tmp_path / "out", True).addresses
    assert file.parent == tmp_path / "out" / "downloads" and file.name.startswith("a_b-") and file.suffix == ".jpg"
    listed.write_text("camera:0\n")
    with pytest.raises(ValueError, match="list.txt: camera:0: cameras and streams are named in the command"):
        find_sources([listed], tmp_path / "out", allow_urls=True)
    (tmp_path / "in" / "more.txt").write_text("a.png\n")
    listed.write_text("more.txt\n")
    with pytest.raises(ValueError, match="list.txt: more.txt: lists in lists are not read; name it in the command"):
        find_sources([listed], tmp_path / "out")
    listed.write_text("\n")
    with pytest.raises(ValueError, match="list.txt: expected a source in each line, got none"):
        find_sources([listed], tmp_path / "out")


@pytest.fixture
def command(film, tiny_detector_folder, tmp_path):
    words = ["predict", film, "--model", tiny_detector_folder, "--output", tmp_path / "out", "--threshold", 0]
    return [str(word) for word in [*words, "--top-k", 2, "--frame-stride", 2, "--batch-size", 2, "--device", "cpu"]]


def read(tmp_path):
    return json.loads((tmp_path / "out" / "detections.json").read_text())


def test_a_video_gets_detections_for_each_frame_and_a_picture_in_motion(command, film, tmp_path):
    assert main([*command, "--track", "--format", "json,yolo", "--save-crops"]) == 0
    report = read(tmp_path)
    assert [(entry["file"], entry["frame"]) for entry in report["images"]] == [(str(film), i) for i in range(0, 9, 2)]
    assert all(entry["detections"] and "track" in entry["detections"][0] for entry in report["images"])
    tracks = [{row["track"] for row in entry["detections"]} for entry in report["images"]]
    assert tracks[0] == {None} and tracks[-1] != {None}  # a track needs two frames
    assert len(greys(tmp_path / "out" / "videos" / "film.mp4")) == 5
    frames = sorted((tmp_path / "out" / "frames").glob("*.png"))
    assert [file.name for file in frames] == [f"film_{number:06d}.png" for number in range(0, 9, 2)]
    assert np.asarray(PIL.Image.open(frames[-1])).mean() == pytest.approx(180, abs=6)
    labels = sorted((tmp_path / "out" / "yolo" / "labels").glob("*.txt"))
    assert [file.stem for file in labels] == [file.stem for file in frames]


def test_the_bar_of_a_video_counts_every_frame_that_is_read(command, film, monkeypatch):
    bars, tqdm = [], video_run.tqdm

    def watched(**options):
        bars.append(tqdm(**options))
        return bars[-1]

    monkeypatch.setattr(video_run, "tqdm", watched)
    assert main([*command, "--no-pictures"]) == 0
    assert [(bar.n, bar.total) for bar in bars] == [(5, 5)]  # the first of nine, and every second


def test_an_interrupted_video_is_begun_again_and_a_damaged_one_is_said(command, film, tmp_path, monkeypatch, capsys):
    whole = [*command, "--no-pictures"]
    run, calls = video_run._do, []

    def stop(*arguments):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        run(*arguments)

    monkeypatch.setattr(video_run, "_do", stop)
    assert main(whole) == 130
    assert read(tmp_path)["missing"] == [str(film)] and [e["frame"] for e in read(tmp_path)["images"]] == [0, 2]
    monkeypatch.setattr(video_run, "_do", run)
    assert main(whole) == 0
    assert read(tmp_path)["missing"] == [] and len(read(tmp_path)["images"]) == 5
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(film.read_bytes()[:200])
    capsys.readouterr()
    assert main([whole[0], str(broken), *whole[1:]]) == 1
    assert [entry["file"] for entry in read(tmp_path)["failed"]] == [str(broken)]
    assert "broken.mp4: expected a video" in capsys.readouterr().err


def test_tracking_without_its_package_or_without_a_video(command, tiny_detector_folder, tmp_path, monkeypatch, capsys):
    image = str(write_image(tmp_path / "a.png"))
    words = ["predict", image, "--model", str(tiny_detector_folder), "--output", str(tmp_path / "none"), "--track"]
    assert main(words) == 1
    assert "no video is given" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert main([*command, "--track"]) == 1
    assert "pip install 'decodetr[track]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ("--max-frames 2", "--max-frames is of videos, and none is given; leave it out"),
        ("--frame-stride 1", "--frame-stride is of videos, and none is given; leave it out"),
        ("--slice-overlap 0.2", "--slice-overlap is of tiles, and --slice is not given; leave it out"),
        ("--no-pictures --picture-format png", "--picture-format is of annotated images, and none are made"),
        ("--no-pictures --font FONT", "--font is of annotated pictures, and none are made; leave it out"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(tiny_detector_folder, tmp_path, capsys, options, message):
    image, font = write_image(tmp_path / "a.png"), tmp_path / "font.ttf"
    font.touch()
    words = ["predict", image, "--model", tiny_detector_folder, "--output", tmp_path / "out", "--device", "cpu"]
    assert main([*map(str, words), *options.replace("FONT", str(font)).split()]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_options_of_images_and_of_videos_go_together(command, film, tmp_path, capsys):
    images = [*command, "--picture-format", "jpg"]
    assert main(images) == 1
    assert "--picture-format is of annotated images, and none are made" in capsys.readouterr().err
    image = str(write_image(tmp_path / "a.png"))
    assert main([images[0], image, *images[1:], "--max-frames", "2"]) == 0
    assert [(entry["file"], entry.get("frame")) for entry in read(tmp_path)["images"]] == [
        (image, None), (str(film), 0), (str(film), 2)]  # fmt: skip
    assert (tmp_path / "out" / "a.jpg").is_file()


def test_tracks_follow_what_moves():
    def at(*lefts):
        return [[left, 10, left + 20, 30] for left in lefts]

    tracks = Tracks(10)
    seen = [tracks.update(at(10 + 3 * step, 200 - 3 * step)) for step in range(5)]
    assert seen[0] == [None, None] and len(set(seen[2])) == 2 and None not in seen[2]
    assert seen[2] == seen[3] == seen[4]
    assert tracks.update(at(200 - 15, 10 + 15)) == seen[2][::-1]  # in another order
    assert tracks.update(at()) == []


def test_a_track_outlives_scores_below_the_threshold_which_are_not_shown(film, tiny_detector_folder, tmp_path):
    """An object turns back while it scores too little, so that where it went says nothing of where it is."""
    model = DeCoDetrForObjectDetection.from_pretrained(tiny_detector_folder)
    sure, other = model.vocabulary.names[:2]
    model.config.score_threshold, model.config.name_thresholds = 0.1, {sure: 0.5}
    turning = [(0, 0.6), (4, 0.6), (8, 0.6), (12, 0.6), (9, 0.3), (5, 0.3), (2, 0.3), (0, 0.6), (0, 0.6)]
    frames = iter(turning)

    def find_in(pictures, threshold, top_k):
        found = []
        for left, score in (next(frames) for _ in pictures):
            boxes = [[left, 2, left + 20, 14], [left, 2, left + 20, 14], [40, 30, 60, 46], [30, 2, 50, 14]]
            found.append({"names": [sure, other, other, other], "scores": [score, 0.05, 0.2, 0.01], "boxes": boxes})
        return found

    options = PredictOptions(str(tmp_path / "out"), "tiny", pictures=False, track=True)
    assert PredictRun(options, model, Sources(videos=[str(film)]), find_in, "stub").run() == 0
    rows = [entry["detections"] for entry in read(tmp_path)["images"]]
    shown = [score > 0.5 for _, score in turning]
    assert [[row["name"] for row in found] for found in rows] == [[sure, other] if one else [other] for one in shown]
    first, *later = [{row["name"]: row["track"] for row in found} for found in rows]
    assert first == {sure: None, other: None}
    assert {found[sure] for found in later if sure in found} == {later[0][sure]} != {None}
    assert {found[other] for found in later} == {later[0][other]} != {None}
    assert later[0][sure] != later[0][other]
