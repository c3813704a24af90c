"""Embeddings as a column of a table."""

import numpy as np
import pyarrow as pa


def embedding_array(embeddings: np.ndarray) -> pa.FixedSizeListArray:
    """(n, d) as a pyarrow array of n lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])


def embedding_rows(column: pa.ChunkedArray) -> np.ndarray:
    """The (n, d) array of a column of lists."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
