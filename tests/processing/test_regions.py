"""The regions data set: what is written is what is read, and broken shards are named."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from decodetr.processing import RegionTable, write_regions


def _unit(*values):
    values = np.array(values, dtype=np.float32)
    return values / np.linalg.norm(values)


def _row(image_id, box, kept=True, **fields):
    row = {
        "image_id": image_id,
        "file_name": f"{image_id}.jpg",
        "box": box,
        "proposal_score": 0.5,
        "caption": "a cat",
        "image_embed": _unit(3, 4, 0),
        "text_embed": _unit(0, 3, 4),
        "clip_score": 0.25,
        "kept": kept,
    }
    return {**row, **fields}


ROWS = [
    _row(20, [0, 0, 10, 10], clip_score=0.75),
    _row(10, [1.5, 2, 3, 4]),
    _row(20, [5, 5, 6, 7], kept=False),
    _row(20, [2, 2, 8, 9], image_embed=_unit(1, 0, 0)),
    _row(30, [0, 0, 1, 1], kept=False),
]


@pytest.mark.parametrize("dtype, tolerance", [("float16", 1e-3), ("float32", 1e-7)])
@pytest.mark.parametrize("shard_size, shards", [(2, 3), (100, 1)])
def test_written_is_read(tmp_path, dtype, tolerance, shard_size, shards):
    files = write_regions(tmp_path, iter(ROWS), shard_size, embedding_dtype=dtype)
    assert [file.name for file in files] == [f"regions-{i:05d}-of-{shards:05d}.parquet" for i in range(shards)]
    assert sorted(tmp_path.iterdir()) == files
    table = RegionTable.load(tmp_path)
    assert len(table) == 3 and table.embedding_dim == 3 and table.image_ids == [10, 20]
    assert 20 in table and 30 not in table
    regions = table.get(20)
    np.testing.assert_array_equal(regions["boxes"], [[0, 0, 10, 10], [2, 2, 8, 9]])
    np.testing.assert_allclose(regions["image_embeds"], [[0.6, 0.8, 0], [1, 0, 0]], atol=tolerance)
    np.testing.assert_allclose(regions["text_embeds"], [[0, 0.6, 0.8]] * 2, atol=tolerance)
    np.testing.assert_allclose(regions["scores"], [0.75, 0.25])
    assert all(values.dtype == np.float32 for values in regions.values())
    for image_id in (30, 99):
        assert {name: values.shape for name, values in table.get(image_id).items()} == {
            "boxes": (0, 4),
            "image_embeds": (0, 3),
            "text_embeds": (0, 3),
            "scores": (0,),
            "proposal_scores": (0,),
        }
    regions["boxes"][:] = -1  # the caller's copy
    assert table.get(20)["boxes"].min() == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).get(10)["boxes"], [[1.5, 2, 3, 4]])


def test_columns_and_single_file(tmp_path):
    (file,) = write_regions(tmp_path, {name: [row[name] for row in ROWS] for name in ROWS[0]})
    np.testing.assert_array_equal(RegionTable.load(file).get(10)["boxes"], [[1.5, 2, 3, 4]])
    names = pq.read_schema(file).names
    assert names == list(ROWS[0])


def test_rows_that_are_not_kept_may_be_incomplete(tmp_path):
    (file,) = write_regions(tmp_path, ROWS)
    table = pq.read_table(file)
    captions = [None if not kept else "a" for kept in table["kept"].to_pylist()]
    embeds = [None if not kept else [1.0, 0, 0] for kept in table["kept"].to_pylist()]
    table = table.set_column(4, "caption", pa.array(captions)).set_column(6, "text_embed", pa.array(embeds))
    pq.write_table(table, file)
    np.testing.assert_array_equal(RegionTable.load(tmp_path).get(10)["text_embeds"], [[1, 0, 0]])


@pytest.mark.parametrize("shard_size", [1, 2, 100])
def test_regions_whose_caption_failed_teach_if_they_are_asked_for(tmp_path, shard_size):
    """All but the one without an embedding; their captions count for nothing."""
    files = write_regions(tmp_path, [*ROWS, *[_row(40, [0, 0, 1, 1], kept=False)] * 2], shard_size, "float32")
    unusable = [[float("nan")] * 3, None]  # as the builder writes it, and as others may
    for file in files:
        part = pq.read_table(file)
        pairs = zip(part["image_id"].to_pylist(), part["image_embed"].to_pylist())
        embeds = [unusable.pop() if image_id == 40 else embed for image_id, embed in pairs]
        pq.write_table(part.set_column(5, "image_embed", pa.array(embeds, pa.list_(pa.float32(), 3))), file)
    assert not unusable
    table = RegionTable.load(tmp_path, unkept=True)
    assert len(table) == 5 and table.image_ids == [10, 20, 30] and len(RegionTable.load(tmp_path)) == 3
    order = np.argsort(table.get(20)["boxes"][:, 0])
    np.testing.assert_array_equal(table.get(20)["boxes"][order], [[0, 0, 10, 10], [2, 2, 8, 9], [5, 5, 6, 7]])
    np.testing.assert_allclose(table.get(20)["image_embeds"][order], [[0.6, 0.8, 0], [1, 0, 0], [0.6, 0.8, 0]])
    np.testing.assert_allclose(table.get(20)["text_embeds"][order], [[0, 0.6, 0.8]] * 2 + [[0, 0, 0]])
    assert table.kept(20)[order].tolist() == [True, True, False] and table.kept(30).tolist() == [False]
    assert RegionTable.load(tmp_path).kept(20).tolist() == [True, True] and table.kept(99).shape == (0,)


@pytest.mark.parametrize(
    "field, value",
    [
        ("box", [5.0, 5.0, 1.0, 9.0]),
        ("box", [0.0, 0.0, float("nan"), 9.0]),
        ("box", None),
        ("box", [1.0, 2.0]),
        ("proposal_score", None),
        ("image_embed", [1.0, 0.0]),
        ("image_embed", [3.0, 0.0, 0.0]),
    ],
)
def test_rows_that_somebody_marked_because_they_are_wrong_are_left_out(tmp_path, field, value):
    (file,) = write_regions(tmp_path, [*ROWS, _row(40, [0, 0, 1, 1], kept=False)], 100, "float32")
    rows = pq.read_table(file).to_pylist()
    (wrong,) = (row for row in rows if row["image_id"] == 40)
    wrong[field] = value
    pq.write_table(pa.Table.from_pylist(rows), file)
    table = RegionTable.load(tmp_path, unkept=True)
    assert len(table) == 5 and table.image_ids == [10, 20, 30]


@pytest.mark.parametrize("unkept", [False, True])
def test_lists_of_any_length_may_have_no_row_that_is_used(tmp_path, unkept):
    """As other writers have them: all rows are kept, or those that are not have no embedding, or nobody says."""
    (file,) = write_regions(tmp_path, ROWS, 100, "float32")
    rows = pq.read_table(file).to_pylist()
    kept = [row for row in rows if row["kept"]]
    for kind in (kept, [*kept, {**kept[0], "kept": False, "image_embed": None}], [*kept, {**kept[0], "kept": None}]):
        pq.write_table(pa.Table.from_pylist(kind), file)
        assert len(RegionTable.load(tmp_path, unkept=unkept)) == len(kept)
    pq.write_table(pa.Table.from_pylist([{**row, "kept": False} for row in kept]), file)
    assert len(RegionTable.load(tmp_path, unkept=unkept)) == (len(kept) if unkept else 0)


def test_existing_shards_are_kept_unless_told(tmp_path):
    write_regions(tmp_path, ROWS, 1)
    with pytest.raises(FileExistsError, match="expected no regions, got 5 shards"):
        write_regions(tmp_path, ROWS)
    write_regions(tmp_path, ROWS, 100, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["regions-00000-of-00001.parquet"]


def test_missing_stale_and_half_written_shards(tmp_path):
    files = write_regions(tmp_path, ROWS, 2)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match="regions-00001-of-00003.parquet: expected a whole Parquet shard.*write it again"
    ):
        RegionTable.load(tmp_path)
    files[1].write_bytes(b"")
    with pytest.raises(ValueError, match="regions-00001-of-00003.parquet: expected a whole Parquet shard"):
        RegionTable.load(tmp_path)
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match="expected 3 shards, got 2; missing: regions-00001-of-00003.parquet"):
        RegionTable.load(tmp_path)
    (tmp_path / "regions-00000-of-00002.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match=r"some of \[2, 3\] shards; remove the stale"):
        RegionTable.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected shards like"):
        (tmp_path / "empty").mkdir()
        RegionTable.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such regions folder"):
        RegionTable.load(tmp_path / "nowhere")


def _rewrite(file, name, values):
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.names.index(name), name, pa.array(values)), file)


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("box", [[0, 0, 10.0, 10], [3, 2, 1, 4], [5, 5, 6, 7]], r"row 1 \(image_id 10\).*x0 < x1.*got \[3"),
        ("box", [[0, 0, 10.0, 10], [3, 2, float("nan"), 4], [5, 5, 6, 7]], r"row 1 .*box with finite numbers"),
        ("box", [[0, 0, 10.0, 10], [3, 2, 4], [5, 5, 6, 7]], r"row 1: expected a box of 4 numbers, got 3"),
        ("image_embed", [[1.0, 0, 0], [0, 2.0, 0], [1, 0, 0]], r"row 1 \(image_id 10\).*image_embed.*unit.*length 2"),
        ("image_embed", [[1.0, 0, 0], [0, float("inf"), 0], [1, 0, 0]], r"row 1 .*image_embed with finite"),
        ("image_embed", [[1.0, 0, 0], [0, 1.0], [1, 0, 0]], r"row 1: expected a image_embed of 3 numbers, got 2"),
        ("text_embed", [[1.0, 0], [0, 1.0], [1, 0]], r"image_embed and text_embed of one length, got 3 and 2"),
        ("text_embed", [[1.0, 0, 0], None, [1, 0, 0]], r"row 1: expected a text_embed, got null"),
        ("clip_score", [0.5, float("nan"), 0.5], r"row 1 \(image_id 10\): expected clip_score with finite"),
        ("image_embed", [1.0, 2.0, 3.0], r"expected image_embed to be lists, got double"),
    ],
)
def test_wrong_values_name_shard_and_row(tmp_path, name, values, message):
    (file,) = write_regions(tmp_path, ROWS[:3])
    _rewrite(file, name, values)
    with pytest.raises(ValueError, match=message) as error:
        RegionTable.load(tmp_path)
    assert "regions-00000-of-00001.parquet" in str(error.value)


def test_row_numbers_count_rows_that_are_not_kept(tmp_path):
    (file,) = write_regions(tmp_path, ROWS)
    boxes = [row["box"] for row in ROWS]
    boxes[3] = [8, 2, 2, 9]
    _rewrite(file, "box", [[float(value) for value in box] for box in boxes])
    with pytest.raises(ValueError, match=r"row 3 \(image_id 20\)"):
        RegionTable.load(tmp_path)


def test_missing_columns_and_other_encoders(tmp_path):
    files = write_regions(tmp_path, ROWS, 3)
    pq.write_table(pq.read_table(files[0]).drop_columns(["text_embed"]), files[0])
    with pytest.raises(ValueError, match=r"regions-00000-of-00002.parquet: .*got none of \['text_embed'\]"):
        RegionTable.load(tmp_path)
    write_regions(tmp_path, ROWS, 4, overwrite=True)
    wide = {"image_embed": _unit(1, 0), "text_embed": _unit(1, 0)}
    write_regions(tmp_path / "other", [_row(1, [0, 0, 1, 1], **wide)] * 5, 4)[1].replace(
        tmp_path / "regions-00001-of-00002.parquet"
    )
    with pytest.raises(
        ValueError, match="00001-of-00002.parquet: expected embeddings of length 3 as in .*00000.*got 2"
    ):
        RegionTable.load(tmp_path)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "expected at least one region"),
        ([ROWS[0], {"image_id": 1}], r"row 1: expected the columns .*got none of \['file_name'"),
        ([ROWS[0], _row(1, [4, 4, 2, 6])], r"row 1 \(image_id 1\).*x0 < x1"),
        ([ROWS[0], _row(1, [0, 0, 1, 1], text_embed=_unit(1, 0))], "row 1: expected a text_embed of 3 numbers, got 2"),
        ([ROWS[0], _row(1, [0, 0, 1, 1], image_embed=np.zeros(3))], r"row 1 .*unit length, got length 0"),
    ],
)
def test_writing_checks_rows_and_leaves_nothing_under_the_final_names(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_regions(tmp_path, rows, 1)
    assert not list(tmp_path.glob("*.parquet"))
