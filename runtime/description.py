"""What export.json says of an exported model: its files, its names, what decides its scores, how it wants pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from decodetr.utils.documents import read_json
from decodetr.utils.files import regular_file
from decodetr.utils.hub import downloaded
from decodetr.utils.model_room import load
from decodetr.utils.shipped import is_hub_name

_rule = load("default_threshold")
FILE = "export.json"
FORMAT, FORMAT_VERSION = "decodetr-export", 1
TABLES_FILE = "name_tables.safetensors"
# Of a side, where it is open: a map of one cell would be a case of its own. The coarsest have one for 64 pixels.
LEAST_PIXELS = 65
GRAPH_FILES = ("model.onnx", "model.onnx.data", "model.xml", "model.bin", "model.pt2")
# Everything that an export may write, first what must be there.
WRITTEN = (FILE, TABLES_FILE, *GRAPH_FILES)
MODEL_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2"}  # by --format
MOST_BYTES = 16 << 30  # of a file of an export
# Fields that do not stand in the graph: what is known after it is written, and long records of its making.
_BESIDE_GRAPH = ("files", "parity", "vocabulary_info", "pool_info", "training_info")
_FREE = ("source", "versions")  # decide no detection; `decodetr push` cuts a path in the first


@dataclass(frozen=True)
class Description:
    """
    The content of export.json.

    Args:
        runtime (str): "onnx", "openvino" or "pt2".
        names (list[str]): baked into the graph, or stored for it.
        names_input (bool): the graph reads its names, see [`NameTables`].
        post_processing (str): "inside" or "outside" the graph. top_k (int, optional): detections of a graph that has
            it inside.
        queries (int): N. semantic_queries (int, optional): how many of them are scored, all where None.
        embedding_dim (int): d. num_prototypes (int): M.
        family (str): of the detector. dtype (str): in which the graph computes. Its inputs and outputs are float32.
        dynamic (list[str]): sizes that may change from call to call: "batch", "names", "height", "width".
        image_size (list[int], optional): height and width of a graph with fixed ones.
        batch_size (int, optional): of a graph with a fixed one.
        size_divisor (int): height and width are multiples of it.
        preprocessing (dict): fields of the image processor, see [`Preprocessing`].
        score_scale, score_bias (float): the calibration, which the graph applies.
        score_threshold (float, optional), name_thresholds (dict, optional): as in the model's config.
        default_threshold (float): where neither says anything.
        background_threshold (float), centred (bool), pool_use (str): what decides which prototypes are background.
        vocabulary_info, pool_info (dict): who made the tables. training_info (dict): what the model learned from.
        pool_digest, vocabulary_digest (str, optional): SHA-256 of the tables. weights_digest (str): of the weights
            and tables.
        source (str): name of the model that was exported.
        parity (dict): what the check after the export found. versions (dict): of the packages that took part.
        files ({name: {"bytes", "sha256"}}): the other files of the export. One that is not listed is not checked.
    """

    runtime: str
    names: list[str]
    names_input: bool
    post_processing: str
    top_k: int | None
    queries: int
    semantic_queries: int | None
    embedding_dim: int
    num_prototypes: int
    family: str
    dtype: str
    dynamic: list[str]
    image_size: list[int] | None
    batch_size: int | None
    size_divisor: int
    preprocessing: dict[str, Any]
    score_scale: float
    score_bias: float
    score_threshold: float | None
    name_thresholds: dict[str, float] | None
    default_threshold: float
    background_threshold: float
    centred: bool
    pool_use: str
    weights_digest: str
    source: str
    vocabulary_info: dict[str, Any] = field(default_factory=dict)
    pool_info: dict[str, Any] = field(default_factory=dict)
    training_info: dict[str, Any] | None = None
    pool_digest: str | None = None
    vocabulary_digest: str | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def common_threshold(self) -> float:
        """The score from which names are shown that have no separate threshold."""
        return self.default_threshold if self.score_threshold is None else self.score_threshold

    def thresholds(self, names: list[str] | None = None, threshold: float | None = None) -> list[float]:
        """The score from which each of some names is shown, as of the model's config."""
        names = self.names if names is None else names
        return _rule.thresholds_of(names, threshold, self.name_thresholds, self.common_threshold)

    def to_json(self) -> dict[str, Any]:
        """What stands in export.json."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    def facts(self) -> dict[str, Any]:
        """What of it stands in the graph, too."""
        return {name: value for name, value in asdict(self).items() if name not in _BESIDE_GRAPH}


def find_export(place: str | Path) -> Path | None:
    """The folder of an exported model, given it, its model.onnx, model.xml or model.pt2, or a Hub name. None: it is
    none, but maybe a model with its config.json.

    Raises:
        FileNotFoundError: a graph that is not there, or without its export.json. ConnectionError: the connection to
            the Hub was lost.
    """
    if is_hub_name(place) and not str(place).endswith(tuple(MODEL_FILES.values())):
        return downloaded(str(place), WRITTEN)
    place = Path(place)
    is_graph = place.name.endswith(tuple(Path(name).suffix for name in MODEL_FILES.values()))
    folder = place.parent if is_graph else place
    if (folder / FILE).is_file():
        if is_graph and not (place.is_file() and place.name in MODEL_FILES.values()):
            there = [name for name in MODEL_FILES.values() if (folder / name).is_file()]
            raise FileNotFoundError(f"{place}: no such graph; {folder} has {', '.join(there) or 'none'}")
        return folder
    graphs = [place] if is_graph else [folder / name for name in MODEL_FILES.values()]
    if not (folder / "config.json").is_file() and (alone := [graph for graph in graphs if graph.is_file()]):
        raise FileNotFoundError(
            f"{alone[0]}: no {FILE} is beside it, which has the names, their thresholds and how pictures are resized; "
            "give the whole folder that `decodetr export` wrote"
        )
    return None


def read_description(folder: str | Path) -> Description:
    """The [`Description`] of an exported model.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or of another version of the format.
    """
    file = Path(folder) / FILE
    content = read_json(file, dict)
    expected = (FORMAT, FORMAT_VERSION)
    if (got := (content.get("format"), content.get("format_version"))) != expected:
        raise ValueError(f"{file}: expected format and format_version {expected}, got {got}; export the model again")
    known = {one.name: one for one in fields(Description)}
    missing = [name for name in known if name not in content]
    if missing:
        raise ValueError(f"{file}: {', '.join(missing)} missing; export the model again")
    values = {name: content[name] for name in known}
    for name, one in known.items():
        if not _fits(values[name], str(one.type)):
            raise ValueError(f"{file}: {name}: expected {one.type}, got {values[name]!r}; export the model again")
    for name, choices in (("runtime", MODEL_FILES), ("post_processing", ("inside", "outside"))):
        if values[name] not in choices:
            raise ValueError(f"{file}: {name}: expected one of {', '.join(choices)}, got {values[name]!r}")
    for name, said in values["files"].items():
        if name not in WRITTEN[1:] or not isinstance(said, dict) or set(said) != {"bytes", "sha256"}:
            raise ValueError(
                f"{file}: files: expected bytes and sha256 of some of {', '.join(WRITTEN[1:])}, got {name!r}: {said!r}"
                "; export the model again"
            )
    names = values["names"]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{file}: names: expected a list of texts; export the model again")
    return Description(**values)


def digest_of(file: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(folder: str | Path) -> dict[str, dict[str, Any]]:
    """What export.json says of the other files of its folder."""
    there = [file for name in WRITTEN[1:] if (file := Path(folder) / name).is_file()]
    return {file.name: {"bytes": file.stat().st_size, "sha256": digest_of(file)} for file in there}


def check_files(folder: str | Path, description: Description, verify: bool = True) -> None:
    """Check that the files of an export are those that export.json lists.

    Args:
        verify (bool): False: of graphs only the size is compared, which is quick.

    Raises:
        FileNotFoundError: one is not there. ValueError: one is another.
    """
    for name, said in description.files.items():
        file = regular_file(Path(folder) / name, MOST_BYTES)
        got = {"bytes": file.stat().st_size, "sha256": said["sha256"]}
        if got == said and (verify or name == TABLES_FILE):
            got["sha256"] = digest_of(file)
        if got != said:
            raise ValueError(
                f"{file} is not the file that {FILE} beside it lists: expected {said['bytes']} bytes with SHA-256 "
                f"{str(said['sha256'])[:12]}..., got {got['bytes']} with {digest_of(file)[:12]}...: it is damaged, "
                "changed, or of another export; fetch the whole folder, or export the model, again"
            )


def check_facts(file: str | Path, description: Description, facts: Mapping[str, Any]) -> None:
    """ValueError where a graph, given what stands in it, is of another export than export.json."""
    own = description.facts()
    differ = [name for name in own if name not in _FREE and name in facts and facts[name] != own[name]]
    if differ:
        raise ValueError(
            f"{file} and {FILE} beside it are of two exports, or {FILE} was changed: they differ in "
            f"{', '.join(differ)}; export the model again"
        )


_KINDS = {"str": str, "bool": bool, "int": int, "float": (int, float), "list": list, "dict": dict, "None": type(None)}


def _fits(value, kind):
    """Whether a value of JSON is of an annotated type, by its outermost one."""
    allowed = [_KINDS[part.split("[")[0].strip()] for part in kind.split("|")]
    if isinstance(value, bool):
        return bool in allowed
    return any(isinstance(value, one) for one in allowed)
