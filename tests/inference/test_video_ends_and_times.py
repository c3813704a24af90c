"""Videos that end too early are told from whole ones, and the annotated video has the times of its frames."""

import json
from fractions import Fraction

import av
import cv2
import numpy as np
import PIL.Image
import pytest

from decodetr.cli import main
from decodetr.inference.annotated_video import video_sink
from decodetr.inference.videos import Video

UNEVEN = [0, 40, 80, 1000, 1040, 3000, 3500, 5000]  # milliseconds


def film(file, codec="mpeg4", times=None, sound=0.0, **options):
    """A video of noise, so that half of the file is about half of its frames: 40 of 64 x 48 at 25 a second, or at some
    milliseconds; and seconds of silence."""
    noise = np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", options
        heard = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(len(times or range(40))):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, int(sound * 48000), 960):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 48000, start, Fraction(1, 48000)
            container.mux(heard.encode(silence))
        if heard:
            container.mux(heard.encode(None))
    return file


def cut(file, share):
    """The first part of a file."""
    short = file.with_name(f"cut{file.suffix}")
    short.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    return short


def read(file, **options):
    """(numbers of frames, what is wrong at their end or None)."""
    numbers = []
    try:
        with Video(str(file)) as video:
            numbers.extend(frame.number for frame in video.read(**options))
    except ValueError as error:
        return numbers, str(error)
    return numbers, None


@pytest.mark.parametrize("name", ["film.mkv", "film.avi"])  # which says its length, or its number of frames too
@pytest.mark.parametrize("stride", [1, 3])
def test_a_video_that_is_cut_off_gives_its_frames_and_says_so(tmp_path, name, stride):
    file = film(tmp_path / name)
    assert read(file, stride=stride) == (list(range(0, 40, stride)), None)
    short = cut(file, 0.6)
    numbers, error = read(short, stride=stride)
    count = len(read(short, most=39)[0])  # all that there are
    assert 10 < count < 30 and numbers == list(range(0, count, stride))
    ends = f"it ends at {count / 25:.1f} of 1.6 seconds"
    assert error == f"{short}: damaged after {len(numbers)} frames: {ends}"
    assert read(short, stride=stride, most=4) == (list(range(0, 4 * stride, stride)), None)  # nobody asked for more


def test_a_video_without_a_frame_is_no_video(tmp_path):
    # Only the header is there, and the beginning of a frame.
    file = film(tmp_path / "film.mkv")
    short = tmp_path / "short.mkv"
    content = file.read_bytes()
    short.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75") + 40])
    assert read(short) == ([], f"{short}: expected a video, got no frame that can be read")


@pytest.mark.parametrize(
    "name, options",
    [
        ("uneven.mkv", {"times": UNEVEN}),
        ("uneven.mp4", {"times": UNEVEN}),
        ("late.mkv", {"times": [20_000 + time for time in UNEVEN]}),
        ("late.mp4", {"times": [20_000 + time for time in UNEVEN]}),
        ("sound.mkv", {"sound": 4.0}),
        ("sound.mp4", {"sound": 4.0}),
        ("sound.avi", {"sound": 4.0}),
        ("broadcast.ts", {"codec": "mpeg2video"}),
        ("broadcast.mpg", {"codec": "mpeg2video"}),
        ("bare.m4v", {}),  # says nothing
        ("film.flv", {"codec": "flv"}),
    ],
)
def test_whole_videos_of_any_kind_are_whole(tmp_path, name, options):
    file = film(tmp_path / name, **options)
    assert read(file) == (list(range(len(options.get("times", range(40))))), None)


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path):
    with (
        av.open(str(film(tmp_path / "film.mp4", g="40"))) as whole,
        av.open(str(tmp_path / "t.mp4"), "w") as container,
    ):
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts = (time - int(1 / packet.time_base) for time in (packet.pts, packet.dts))
                packet.stream = stream
                container.mux(packet)
    with Video(str(tmp_path / "t.mp4")) as video:
        assert video.frames == 40 and len(list(video.read())) == 15


@pytest.fixture
def predict(tiny_detector_folder, tmp_path):
    """predict(file, options): (exit status, detections.json, times in the annotated video)."""

    def run(file, *options):
        output = tmp_path / "out"
        words = ["predict", file, "--model", tiny_detector_folder, "--output", output, "--threshold", 0, "--top-k", 2]
        status = main([str(word) for word in [*words, "--device", "cpu", "--batch-size", 4, *options]])
        return status, json.loads((output / "detections.json").read_text()), output / "videos" / f"{file.stem}.mp4"

    return run


def times_in(file):
    with av.open(str(file)) as container:
        return [round(float(frame.time), 4) for frame in container.decode(video=0)]


def test_the_command_keeps_every_frame_of_a_video_that_is_cut_off(predict, tmp_path, capsys):
    short = cut(film(tmp_path / "film.mkv"), 0.6)
    count = len(read(short)[0])
    while count % 4 == 0:  # also those of a last batch that is not full
        short = cut(short, 0.95)
        count = len(read(short)[0])
    status, report, drawn = predict(short)
    assert status == 1 and [entry["frame"] for entry in report["images"]] == list(range(count))
    (failed,) = report["failed"]
    assert failed["file"] == str(short) and failed["error"].startswith(f"{short}: damaged after {count} frames")
    assert failed["error"] in capsys.readouterr().err and len(times_in(drawn)) == count
    assert predict(short, "--max-frames", 3)[0] == 0


@pytest.mark.parametrize("stride", [1, 3])
def test_an_annotated_video_has_the_times_of_the_json(predict, tmp_path, stride):
    _, report, drawn = predict(film(tmp_path / "film.mkv", times=UNEVEN), "--frame-stride", stride)
    seconds = [entry["seconds"] for entry in report["images"]]
    assert seconds == [time / 1000 for time in UNEVEN[::stride]] and times_in(drawn) == seconds
    with av.open(str(drawn)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.width % 2 == stream.height % 2 == 0
    reader, shown = cv2.VideoCapture(str(drawn)), []
    while reader.read()[0]:
        shown.append(reader.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    np.testing.assert_allclose(shown, seconds, atol=1e-4)


def written(file, pictures, rate=25):
    with video_sink(file, rate) as show:
        for picture, seconds in pictures:
            show(picture, seconds)
    return times_in(file)


def grey(value, size=(64, 48)):
    return PIL.Image.new("RGB", size, (value, value, value))


@pytest.mark.parametrize(
    "given, wanted",
    [
        ([0, 1001 / 30000, 2002 / 30000], [0, 0.0334, 0.0667]),
        ([5.0, 5.5], [5.0, 5.5]),
        ([1_700_000_000.25, 1_700_000_000.5], [0, 0.25]),  # the clock of a camera
        ([-0.5, 0.5], [0, 1.0]),
        ([0, 0.04, 0.04, 0.08], [0, 0.04, 0.0401, 0.08]),  # MP4 has no two pictures at one time
        ([60.0, 61.0, 0.0, 0.5], [0, 1.0, 1.04, 1.54]),  # a stream that began anew
    ],
)
def test_times_of_odd_videos(tmp_path, given, wanted):
    assert written(tmp_path / "a.mp4", [(grey(90), seconds) for seconds in given]) == wanted


def test_the_last_picture_is_shown_as_long_as_the_others(tmp_path):
    written(tmp_path / "a.mp4", [(grey(90), 0), (grey(90), 2)], rate=0.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.duration / 1e6 == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])  # what FFmpeg has without x264
def test_pictures_of_another_size_are_shown_in_that_of_the_first(tmp_path, codec, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {codec})
    sizes = [(65, 49), (65, 49), (48, 64), (130, 98)]
    assert len(written(tmp_path / "a.mp4", [(grey(200, size), n / 25) for n, size in enumerate(sizes)])) == 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == {"libx264": "h264"}.get(codec, codec)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    middle = [frame[24].mean(axis=1) for frame in frames]
    np.testing.assert_allclose([row[32] for row in middle], 200, atol=8)
    np.testing.assert_allclose([row[4] for row in middle], [200, 200, 0, 200], atol=8)  # beside an upright one


def test_a_video_whose_size_changes_keeps_all_its_frames(predict, tmp_path):
    file = tmp_path / "film.webm"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        other = av.CodecContext.create("libvpx", "w")
        other.width, other.height, other.pix_fmt = 48, 64, "yuv420p"
        other.time_base, other.framerate = Fraction(1, 25), Fraction(25)
        for encoder, first, size in ((stream, 0, (64, 48)), (other, 5, (48, 64))):
            frames = [av.VideoFrame.from_image(grey(200, size)) for _ in range(5)]
            for number, frame in enumerate(frames, first):
                frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in [packet for frame in [*frames, None] for packet in encoder.encode(frame)]:
                packet.stream = stream
                container.mux(packet)
    status, report, drawn = predict(file)
    assert status == 0 and len(times_in(drawn)) == 10
    assert [(entry["width"], entry["height"]) for entry in report["images"]] == [(64, 48)] * 5 + [(48, 64)] * 5
