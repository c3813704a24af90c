"""The embedding space of a run: that of one CLIP for pool, vocabulary, regions and starting point, or none works."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.modeling_decodetr.text_encoder import encode_texts, encoder_info, load_text_model
from decodetr.modeling_decodetr.vocabulary import describe_encoder, same_encoder
from decodetr.pool_builder.selection import ENCODER
from decodetr.pool_builder.shards import MANIFEST
from decodetr.utils.documents import read_json
from decodetr.utils.files import folder_state
from decodetr.utils.shipped import cannot_load, load_pool, load_vocabulary, resolve

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import PrototypePool, Vocabulary
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.options.options import TrainOptions


def asked_space(options: "TrainOptions") -> tuple[int, dict[str, Any]] | None:
    """The space of what the options name: the pool, else the vocabulary, else the text model, if the starting
    point has no names that are kept.

    Returns:
        (width d, info with "encoder" and "encoder_fingerprint"), or None.

    Raises:
        FileNotFoundError: it cannot be loaded. ValueError: it is damaged, or no CLIP-like model.
    """
    if options.pool:
        table = load_pool(options.pool)
    elif options.vocabulary:
        table = load_vocabulary(options.vocabulary)
    elif options.text_model and (options.reset_semantics or not options.model):
        return text_space(options.text_model)
    else:
        return None
    return table.embedding_dim, table.info


def text_space(name: str) -> tuple[int, dict[str, Any]]:
    """(width d, info) of a CLIP-like text model, by folder, Hub or shipped name. Loads it, once as long as it is the
    same."""
    return _text_space(name, folder_state(resolve(name)))


@lru_cache(maxsize=8)
def _text_space(name, _state):
    try:
        model, tokenizer = load_text_model(resolve(name))
    except OSError as error:
        raise cannot_load("text model", name, error) from error
    return encode_texts([""], model, tokenizer).shape[1], encoder_info(model)


def is_foreign(space: tuple[int, dict[str, Any]] | None, config: DeCoDetrConfig) -> bool:
    """Whether a space (of `asked_space`) is not that of a DeCoDetrConfig's own pool and names."""
    if space is None:
        return False
    width, info = space
    own = [own for own in (config.pool_info, config.vocabulary_info) if own]
    return width != config.embedding_dim or not all(same_encoder(info, other) for other in own)


def check_space(
    options: "TrainOptions",
    config: DeCoDetrConfig,
    training: "DeCoDetrTrainingArguments | None",
    pool: "PrototypePool | None",
    vocabulary: "Vocabulary | None",
    deployed: "Vocabulary | None",
) -> None:
    """Check that all tables of a run are of one space.

    Args:
        options (TrainOptions). config (DeCoDetrConfig): of the starting point, as the run will have it.
        training (DeCoDetrTrainingArguments or None).
        pool, vocabulary, deployed: of --pool, --vocabulary and --deploy-vocabulary, or None.

    Raises:
        ValueError: they are not. The message names the options and what mends it. FileNotFoundError: no such text
            model.
    """
    semantic = training is None or training.streams != "localization"
    tables = {"--pool": pool, "--vocabulary": vocabulary, "--deploy-vocabulary": deployed}
    spaces = {option: (table.embedding_dim, table.info) for option, table in tables.items() if table is not None}
    if spaces:
        first, (width, info) = next(iter(spaces.items()))
    elif (space := asked_space(options)) is not None:
        first, (width, info) = "--clip", space
    else:
        if options.goes_on and semantic:
            _check_regions(options, f"--model {options.model}", config.embedding_dim, config.pool_info)
        return
    for option, other in spaces.items():
        if not _same((width, info), other):
            raise ValueError(
                f"{first} is of {_describe(width, info)}, {option} of {_describe(*other)}: build both with the same "
                "CLIP (decodetr vocabulary build --clip NAME, decodetr pool build --clip NAME)"
            )
    _check_regions(options, first, width, info)
    if width != config.embedding_dim:
        mend = "--reset-semantics, which starts the semantic stream from random weights"
        if options.config:
            mend = f"--set embedding_dim={width}"
        raise ValueError(
            f"{first} has embeddings of width {width}, the starting point's space has d = {config.embedding_dim}: "
            f"give {mend}"
        )
    own = config.vocabulary_info if pool is not None else config.pool_info
    both = pool is not None and vocabulary is not None  # they are swapped together
    if options.goes_on and not both and not _same((width, info), (width, own)):
        new = "--vocabulary NAMES" if pool is not None else "--pool POOL"
        raise ValueError(
            f"{first} is of {_describe(width, info)}, --model {options.model} of {_describe(width, own)}: give what "
            f"the same CLIP made, {new} of the new one as well, or --reset-semantics to start the semantic "
            "stream from random weights"
        )
    kept = options.model if options.reset_semantics and pool is None and semantic else None
    if kept and is_foreign((width, info), stored_config(kept)):
        raise ValueError(
            f"{first} is of {_describe(width, info)}, and the pool of --model {kept} of another CLIP: give "
            "--pool POOL, made with that one (decodetr pool build --clip NAME), or --streams localization, which "
            "needs none"
        )


def _check_regions(options, first, width, info):
    for option, folder in (("--regions", options.regions_folder), ("--replay-regions", options.replay_regions)):
        if not folder:
            continue
        dim, made = region_width(folder) or width, region_encoder(folder)
        if not _same((width, info), (dim, made)):
            raise ValueError(
                f"{option} {folder} is of {_describe(dim, made)}, {first} of {_describe(width, info)}: give what one "
                "CLIP made (decodetr pool build --clip NAME)"
            )


def region_encoder(folder: str | Path) -> dict[str, Any]:
    """The "encoder" and "encoder_fingerprint" of a regions data set. Empty where it does not say."""
    manifest = Path(folder) / MANIFEST
    identity = read_json(manifest, dict).get("identity") if manifest.is_file() else None
    return {key: identity.get(key) for key in ENCODER} if isinstance(identity, dict) else {}


def region_width(folder: str | Path) -> int | None:
    """Width of the embeddings of a regions data set, from the first shard's schema. None where it does not say."""
    files = sorted(Path(folder).glob("*.parquet")) if Path(folder).is_dir() else [Path(folder)]
    try:
        kind = pq.read_schema(files[0]).field("image_embed").type
    except (pa.ArrowException, OSError, KeyError, IndexError):  # said by the reader, or of the missing folder
        return None
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def stored_config(model: str) -> DeCoDetrConfig:
    """The DeCoDetrConfig of --model, as it is stored."""
    return DeCoDetrConfig.from_pretrained(resolve(model))


def _same(one, other):
    return one[0] == other[0] and same_encoder(one[1], other[1])


def _describe(width, info):
    return f"encoder {describe_encoder(info)} (width {width})"
