"""Streamed training data: the items of the same data read whole, and each row one reader's."""

import json
import pickle

import datasets
import pytest
from helpers.data_forms import NAMES, hub_dataset, write_coco, write_yolo
from helpers.streamed_data import PROCESSOR, data_of, rows_of, stream_of, streamed
from torch.utils.data import DataLoader

from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.sources import load_annotations, load_stream
from decodetr.annotations.stream import AnnotationStream
from decodetr.processing import DetectionAugmentation, DetectionDataset, RegionTable, detection_collate, write_regions


def write_region_rows(folder, image_ids):
    row = {"file_name": "", "caption": "", "clip_score": 0.5, "kept": True}
    row |= {"image_embed": [0.6, 0.8], "text_embed": [1.0, 0.0]}
    boxes = (([0, 0, 9, 30], 0.9), ([20, 20, 29, 29], 0.6))
    rows = [{**row, "image_id": i, "box": box, "proposal_score": score} for i in image_ids for box, score in boxes]
    write_regions(folder, rows, embedding_dtype="float32")
    return RegionTable.load(folder)


def bytes_of(item):
    tensors = {"pixel_values": item["pixel_values"], **item["labels"]}
    return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes()) for name, value in tensors.items()}


def ids_of(loader):
    return [int(label["image_id"]) for batch in loader for label in batch["labels"]]


# Items


@pytest.mark.parametrize("as_lists", [True, False])
@pytest.mark.parametrize("box_format", ["coco", "pascal_voc", "yolo"])
def test_the_items_of_the_same_data_read_whole(box_format, as_lists):
    data = hub_dataset(box_format, as_lists=as_lists)  # no image_id, and an image without objects
    whole = DetectionDataset(read_dataset(data, "mine", box_format=box_format), PROCESSOR, NAMES)
    stream = AnnotationStream(data.to_iterable_dataset(num_shards=2), "mine", box_format=box_format)
    found = list(streamed(stream, shuffle_buffer=0))
    assert [bytes_of(item) for item in found] == [bytes_of(whole[i]) for i in range(3)]
    assert [len(item["labels"]["boxes"]) for item in found] == [2, 1, 0]


def test_regions_and_augmentation_by_image_id_in_every_epoch(tmp_path):
    rows = rows_of(7)
    options = {"regions": write_region_rows(tmp_path / "regions", [101, 104, 106]), "pseudo_box_score": 0.8}
    options["augmentation"] = DetectionAugmentation(3)
    whole = DetectionDataset(read_dataset(data_of(rows), "mine"), PROCESSOR, NAMES, **options)
    dataset = streamed(stream_of(rows, shards=3), shuffle_buffer=4, **options)
    orders = []
    for epoch in (0, 1):
        whole.set_epoch(epoch), dataset.set_epoch(epoch)
        expected = {100 + i: bytes_of(whole[i]) for i in range(7)}
        loader = DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=None, num_workers=2)
        found = {int(item["labels"]["image_id"]): bytes_of(item) for item in loader}
        assert found == expected and len(found[104]["region_boxes"][2]) > 0
        orders.append(list(found))
    assert orders[0] != orders[1]


def test_names_of_texts_numbers_and_a_split():
    texts = rows_of(6)
    for row in texts:
        row["objects"] = {**row["objects"], "category": [NAMES[label] for label in row["objects"]["category"]]}
    expected = [item["labels"]["class_labels"].tolist() for item in streamed(stream_of(rows_of(6)), shuffle_buffer=0)]
    text = stream_of(texts, category=datasets.Value("string"))
    assert text.names is None and any(expected)
    assert [item["labels"]["class_labels"].tolist() for item in streamed(text, shuffle_buffer=0)] == expected
    numbers = data_of(rows_of(6), category=datasets.Value("int64")).to_iterable_dataset()
    with pytest.raises(ValueError, match="numbers without names; give --class-names"):
        AnnotationStream(numbers, "mine")
    named = AnnotationStream(numbers, "mine", class_names=NAMES)
    assert [item["labels"]["class_labels"].tolist() for item in streamed(named, shuffle_buffer=0)] == expected
    coco = read_dataset(data_of(rows_of(6)), "mine").select(NAMES[1:])
    whole = DetectionDataset(coco, PROCESSOR, NAMES[1:])
    assert {len(whole[i]["labels"]["boxes"]) for i in range(6)} == {0, 1}
    for stream in (named, text):
        base = stream.select([NAMES[1], *["elsewhere"] * (stream is named)])
        assert base.names == [NAMES[1]]
        found = list(streamed(base, NAMES[1:], shuffle_buffer=0))
        assert [bytes_of(item) for item in found] == [bytes_of(whole[i]) for i in range(6)]
    with pytest.raises(ValueError, match=r"mine: expected categories such as \['yak'\], got \['crème"):
        named.select(["yak"])


def test_unknown_names():
    with pytest.raises(ValueError, match=r"mine \(train\): expected names of the vocabulary \(1 names\), got \['salt"):
        streamed(stream_of(rows_of(3)), NAMES[:1])  # declared: before any row
    found = streamed(stream_of(rows_of(3)), NAMES[:1], skip_unknown_names=True, shuffle_buffer=0)
    assert [len(item["labels"]["boxes"]) for item in found] == [0, 0, 1]
    rows = rows_of(3)
    rows[1]["objects"]["category"] = ["yak"]
    rows[2]["objects"]["category"] = NAMES
    stream = stream_of(rows, category=datasets.Value("string"))
    with pytest.raises(ValueError, match=r"mine \(train\), row 1: expected names of the vocabulary.*\['yak'\].*add"):
        list(streamed(stream, shuffle_buffer=0))


def _broken(case):
    rows = rows_of(5)
    row = rows[4]
    if case == "NaN":
        row["objects"]["bbox"][0][2] = float("nan")
    if case == "corrupt":
        row["image"]["bytes"] = row["image"]["bytes"][:90]
    if case == "no category":
        row["objects"]["category"] = []
    if case == "category":
        row["objects"]["category"] = [7]
    if case == "id":
        row["image_id"] = None
    return data_of(rows, category=datasets.Value("int64")).to_iterable_dataset(num_shards=2)


MISTAKES = {
    "NaN": "expected finite boxes without negative size, got .*nan.* as x, y, w, h; is --box-format coco right",
    "corrupt": "expected a readable image .*, got .*; replace",
    "no category": "expected a category for each of the 1 boxes, got 0",
    "category": "expected one of the 2 categories, got 7; correct the row, or give all names",
    "id": "expected an integer image_id, got None; correct it, or drop the column",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_bad_row_is_named(case):
    dataset = streamed(AnnotationStream(_broken(case), "mine (train)", class_names=NAMES), shuffle_buffer=0)
    iterator = iter(dataset)
    assert [int(next(iterator)["labels"]["image_id"]) for _ in range(4)] == [100, 101, 102, 103]
    with pytest.raises(ValueError, match=rf"mine \(train\), shard 1, row 1.*: {MISTAKES[case]}"):
        next(iterator)


def test_streams_of_another_form():
    with pytest.raises(ValueError, match=r"mine: expected the columns image and objects, \['image', 'objects'\] miss"):
        AnnotationStream(datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(), "mine")
    unknown = data_of(rows_of(2)).to_iterable_dataset().map(lambda row: row)
    with pytest.raises(ValueError, match="mine: expected a stream that declares its columns"):
        AnnotationStream(unknown, "mine")
    with pytest.raises(ValueError, match="shuffle_buffer must be at least 0, got -1"):
        streamed(stream_of(rows_of(2)), shuffle_buffer=-1)


def test_regions_of_other_images(tmp_path, monkeypatch):
    monkeypatch.setattr("decodetr.processing.streamed_dataset._ROWS_WITHOUT_REGIONS", 4)
    late = write_region_rows(tmp_path / "late", [103])
    assert len(list(streamed(stream_of(rows_of(9)), regions=late, shuffle_buffer=0))) == 9
    other = write_region_rows(tmp_path / "other", [104])
    with pytest.raises(ValueError, match=r"other: expected regions of images of mine \(train\), got none for its fir"):
        list(streamed(stream_of(rows_of(9)), regions=other, shuffle_buffer=0))


# Readers


@pytest.mark.parametrize(
    "shards, processes, workers, with_ids",
    [
        (1, 1, 0, True),
        (1, 2, 0, False),
        (1, 1, 2, False),
        (3, 1, 2, True),  # one reader has two shards
        (3, 2, 0, False),  # read in order, to number them
        (3, 2, 2, True),  # more readers than shards
        (6, 2, 2, True),
        (6, 6, 0, True),
    ],
)
def test_every_row_is_one_readers(shards, processes, workers, with_ids):
    dataset = streamed(stream_of(rows_of(13), shards, drop=() if with_ids else ("image_id",)), shuffle_buffer=5)
    dataset.num_processes = processes
    epochs = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = []
        for dataset.process_index in range(processes):
            found += ids_of(DataLoader(dataset, 2, num_workers=workers, collate_fn=detection_collate))
        assert sorted(found) == [i + (100 if with_ids else 1) for i in range(13)]
        epochs.append(found)
    assert epochs[0] != epochs[1]


def test_endless_streams_go_through_all_rows_again_and_skip_without_decoding():
    dataset = streamed(stream_of(rows_of(5), 2), shuffle_buffer=3, augmentation=DetectionAugmentation(0))
    epochs = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        epochs += [bytes_of(item) for item in dataset]
    dataset.set_epoch(0)
    dataset.endless, dataset.skipped = True, (2, 3)
    iterator, made = iter(dataset), []
    make = dataset.make_item
    dataset.make_item = lambda *args: made.append(args[1]) or make(*args)
    found = [next(iterator) for _ in range(10)]
    assert found[:6] == [None] * 6 and len(made) == 4
    assert [bytes_of(item) for item in found[6:]] == epochs[6:10]
    del dataset.make_item
    loader = iter(DataLoader(dataset, 2, num_workers=2, collate_fn=lambda items: [item is None for item in items]))
    assert [next(loader) for _ in range(6)] == [[True, True]] * 3 + [[False, False]] * 3


def test_a_reader_without_rows_ends_a_training_and_not_an_epoch():
    dataset = streamed(stream_of(rows_of(1)))
    dataset.process_index, dataset.num_processes = 1, 2
    assert list(dataset) == []
    dataset.endless = True
    with pytest.raises(ValueError, match=r"mine \(train\): expected rows for each of 2 readers.*got none for one"):
        next(iter(dataset))


# Sources


def test_saved_and_local_data_are_streamed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = rows_of(5)
    datasets.DatasetDict({"train": data_of(rows)}).save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet/data").mkdir(parents=True)
    for part in range(2):
        file = tmp_path / f"parquet/data/train-{part:05d}-of-00002.parquet"
        data_of(rows[3 * part : 3 * part + 3]).to_parquet(file)
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for row in rows:
        (folder / f"{row['image_id']}.png").write_bytes(row["image"]["bytes"])
        lines.append({"file_name": f"{row['image_id']}.png", "image_id": row["image_id"], "objects": row["objects"]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for source in ("saved", "parquet", "images"):
        form = {"class_names": NAMES}
        coco = load_annotations(tmp_path / source, "train", **form)
        whole = DetectionDataset(coco, PROCESSOR, NAMES)
        found = list(streamed(load_stream(tmp_path / source, "train", **form), shuffle_buffer=0))
        assert [bytes_of(item) for item in found] == [bytes_of(whole[i]) for i in range(5)], source
    with pytest.raises(ValueError, match="expected a split called test, got train"):
        load_stream(tmp_path / "saved", "test")


def test_folders_are_not_streamed(tmp_path):
    for kind, folder in (("COCO", write_coco(tmp_path / "coco")), ("YOLO", write_yolo(tmp_path / "yolo"))):
        with pytest.raises(ValueError, match=f"to stream, got a {kind} folder.*leave out --streaming"):
            load_stream(folder, "train")
