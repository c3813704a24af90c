"""What PrototypePool and Vocabulary share: a table of embeddings that is a module of the model and a folder on disk.

The folder holds `<stem>.safetensors` (tensors) and `<stem>.json` (names, captions, provenance), nothing else is read:
no pickle. The JSON has a digest of names and tensors, so that the two files are known to belong together. Inside a
model the tensors are persistent float32 buffers that `.half()` and `.bfloat16()` leave alone, because a rounded
embedding table is a different table.
"""

import hashlib
import json
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import CommitInfo, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from .file_commit import committed, reading
from .hub_push import push_saved
from .hub_repository import hub_errors, it_has
from .precision import Float32Buffers


class EmbeddingArtifact(Float32Buffers):
    """Base of [`PrototypePool`] and [`Vocabulary`]. Subclasses set `stem`, `info`, `_metadata` and
    `_from_parts`."""

    stem = ""
    format_version = 1

    def texts(self) -> list[str] | None:
        """What the rows stand for, in their order: names, or captions where there are any."""
        raise TypeError(f"{type(self).__name__} must define texts().")

    def digest(self) -> str | None:
        """SHA-256 of the rows and what they stand for. None where the tensors are not there (meta device)."""
        return table_digest(self.texts(), dict(self.named_buffers(recurse=False)))

    def _metadata(self) -> dict:
        raise TypeError(f"{type(self).__name__} must define _metadata().")

    @classmethod
    def _from_parts(cls, tensors: dict, metadata: dict):
        raise TypeError(f"{cls.__name__} must define _from_parts().")

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `<stem>.safetensors` and `<stem>.json` into a folder: both of them, or after any failure none.

        Args:
            save_directory (`str` or `Path`): folder, made if missing.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        tensors = {name: buffer.detach().cpu().contiguous() for name, buffer in self.named_buffers(recurse=False)}
        metadata = {**self._metadata(), "table_digest": table_digest(self.texts(), tensors)}
        metadata |= {"format": f"decodetr-{self.stem}", "format_version": self.format_version}
        text = json.dumps(metadata, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        with committed(save_directory) as folder:
            save_file(tensors, folder / f"{self.stem}.safetensors", metadata={"format": "pt"})
            # Half of a surrogate pair, as a file name that is no UTF-8 has it, becomes an escape that JSON reads back.
            (folder / f"{self.stem}.json").write_bytes(text.encode("utf-8", errors="backslashreplace"))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load from a folder, or from a Hub repository of that name.

        Raises:
            FileNotFoundError: the folder or repository lacks one of the two files.
            ValueError: foreign, damaged or inconsistent content. The message names the file and what to do.
            OSError: from the Hub, with what to do: no such repository or revision, a token that it does not take, or
                a lost connection.
        """
        folder = Path(name_or_path)
        files = [f"{cls.stem}.safetensors", f"{cls.stem}.json"]
        if not folder.is_dir():
            if folder.exists() or folder.is_absolute() or str(name_or_path).startswith("."):
                raise FileNotFoundError(f"{folder} is not a folder with {' and '.join(files)}.")
            repo_id = str(name_or_path)
            with hub_errors(repo_id):
                folder = Path(
                    snapshot_download(
                        repo_id,
                        revision=revision,
                        token=token,
                        local_files_only=local_files_only,
                        allow_patterns=files,
                    )
                )
            if not all((folder / file).is_file() for file in files):
                raise FileNotFoundError(
                    f"{repo_id} holds no {cls.stem}, which is {' and '.join(files)}{it_has(repo_id, revision, token)}."
                )
        with reading(folder):
            return cls._from_folder(folder, *files)

    @classmethod
    def _from_folder(cls, folder, tensor_file, json_file):
        for file in (tensor_file, json_file):
            if not (folder / file).is_file():
                raise FileNotFoundError(
                    f"{folder / file} is missing: a {cls.stem} folder holds {tensor_file} and {json_file}, as "
                    "save_pretrained writes them (other formats are not loaded)."
                )
        path = folder / json_file
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON ({error}); build or download the {cls.stem} again.") from error
        expected = (f"decodetr-{cls.stem}", cls.format_version)
        got = (metadata.get("format"), metadata.get("format_version")) if isinstance(metadata, dict) else None
        if got != expected:
            raise ValueError(f"{path} must have format and format_version {expected}, got {got}.")
        path = folder / tensor_file
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); build or download the {cls.stem} again.") from error
        digest = metadata.pop("table_digest", None)  # none where others wrote the folder
        try:
            artifact = cls._from_parts(tensors, metadata)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} and {json_file} do not hold a {cls.stem}: {error}") from error
        if digest is not None and digest != table_digest(artifact.texts(), tensors):
            raise ValueError(
                f"{path} and {json_file} do not belong together: one of them was changed or copied by itself. Build "
                f"or download the {cls.stem} again."
            )
        return artifact

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
        license: str | None = None,
    ) -> CommitInfo:
        """Upload the two files and a card to a Hub repository, which is created if missing, in one commit. The card is
        that of `decodetr card`; what a person wrote into the one that is there stays.

        Args:
            repo_id (`str`): NAME or ACCOUNT/NAME. private (`bool`, *optional*): of a new repository.
            token (`str` or `bool`, *optional*): default: that of `hf auth login` or of HF_TOKEN.
            commit_message (`str`, *optional*). revision (`str`, *optional*): branch, made if missing.
            license (`str`, *optional*): of the table, in the Hub's spelling. Default: that of the card that is there.

        Returns:
            The commit's information.

        Raises:
            ValueError: the repository holds another kind, or the card has leftovers, as `decodetr push` refuses them,
                or no license. Nothing was sent then.
            OSError: from the Hub, with what to do. There is no new commit then.
        """
        message = commit_message or f"Upload {self.stem}"
        return push_saved(
            self.save_pretrained, repo_id, self.stem, license=license, private=private, token=token, revision=revision,
            commit_message=message,
        )  # fmt: skip


def table_digest(texts: list[str] | None, tensors: dict[str, torch.Tensor]) -> str | None:
    """SHA-256 that ties what the rows of a table stand for to its tensors.

    Args:
        texts (`list[str]` or None). tensors (`dict[str, torch.Tensor]`): of [`EmbeddingArtifact`]. Floats are taken as
            float32, as they are stored.

    Returns:
        `str`, or None on the meta device.
    """
    if any(tensor.device.type == "meta" for tensor in tensors.values()):
        return None
    total = hashlib.sha256(json.dumps(texts).encode("ascii"))
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        values = values.float() if values.is_floating_point() else values
        total.update(f"{name} {tuple(values.shape)} ".encode("ascii"))
        total.update(values.numpy().data)
    return total.hexdigest()


def check_embeddings(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """A finite float (rows, d) tensor as contiguous float32, or a ValueError that says what is wrong and where."""
    tensor = torch.as_tensor(tensor)
    if tensor.ndim != 2 or tensor.shape[1] == 0 or tensor.shape[0] == 0 or not tensor.is_floating_point():
        raise ValueError(
            f"{what} must be a non-empty float tensor (rows, d), got {tensor.dtype} {tuple(tensor.shape)}."
        )
    tensor = tensor.detach().to(torch.float32).contiguous()
    if tensor.device.type != "meta":
        finite = tensor.isfinite().all(1)
        if not finite.all():
            raise ValueError(f"{what} has NaN or infinite values, first in row {int((~finite).int().argmax())}.")
    return tensor


def unit_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Rows (..., d) of length 1, whatever length they have in float32. Zero rows stay zero.

    The square of a value above 1e19 is infinite in float32, that of one below 1e-23 is zero. Such rows are scaled
    first, the others are normalised as `F.normalize` does, to the bit.
    """
    largest = tensor.abs().amax(-1, keepdim=True)
    extreme = (largest > 1e15) | (largest < 1e-10)
    return F.normalize(torch.where(extreme, tensor / largest.clamp(min=1e-45), tensor), dim=-1)


def random_rows(
    rows: int, embedding_dim: int, generator: torch.Generator | None = None, seed: int = 0
) -> torch.Tensor:
    """Random unit rows (rows, embedding_dim) on the default device, without a generator those of a seed: on the meta
    device nothing is kept, and the same ones must be made again."""
    generator = torch.Generator("cpu").manual_seed(seed) if generator is None else generator
    table = torch.randn(rows, embedding_dim, generator=generator, device=generator.device, dtype=torch.float32)
    return F.normalize(table, dim=-1).to(torch.get_default_device())
