"""What PrototypePool and Vocabulary share: a table of embeddings that is a module of the model and a folder on disk.

The folder holds `<stem>.safetensors` (tensors) and `<stem>.json` (names, captions, provenance), nothing else is read:
no pickle. Inside a model the tensors are persistent float32 buffers that `.half()` and `.bfloat16()` leave alone,
because a rounded embedding table is a different table (DESIGN.md 2 and 4).
"""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .card_text import front_matter, markdown_table


class EmbeddingArtifact(nn.Module):
    """Base of [`PrototypePool`] and [`Vocabulary`]; subclasses set `stem`, `info`, `_metadata`, `_card_lines`
    and `_from_parts`."""

    stem = ""
    format_version = 1

    def _apply(self, fn, recurse=True):
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new.dtype != old.dtype:  # moved to half precision: keep the exact values, follow the device only
                self._buffers[name] = old.to(new.device)
        return self

    def _metadata(self) -> dict:
        raise TypeError(f"{type(self).__name__} must define _metadata().")

    def _card_lines(self) -> list:
        raise TypeError(f"{type(self).__name__} must define _card_lines().")

    @classmethod
    def _from_parts(cls, tensors: dict, metadata: dict):
        raise TypeError(f"{cls.__name__} must define _from_parts().")

    def save_pretrained(self, save_directory):
        """Write `<stem>.safetensors` and `<stem>.json` into a folder, each by an atomic rename.

        Args:
            save_directory (`str` or `Path`): folder; made if missing.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: buffer.detach().cpu().contiguous() for name, buffer in self.named_buffers(recurse=False)}
        metadata = {**self._metadata(), "format": f"decodetr-{self.stem}", "format_version": self.format_version}
        text = json.dumps(metadata, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # may fail: before any file
        partial = folder / f".{self.stem}.safetensors.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        os.replace(partial, folder / f"{self.stem}.safetensors")
        partial = folder / f".{self.stem}.json.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / f"{self.stem}.json")

    @classmethod
    def from_pretrained(cls, name_or_path, revision=None, token=None, local_files_only=False):
        """Load from a folder, or from a Hub repository of that name.

        Raises:
            FileNotFoundError: a local folder lacks one of the two files.
            ValueError: foreign, damaged or inconsistent content; the message names the file and what to do.
        """
        folder = Path(name_or_path)
        files = [f"{cls.stem}.safetensors", f"{cls.stem}.json"]
        if not folder.is_dir():
            if folder.exists() or folder.is_absolute() or str(name_or_path).startswith("."):
                raise FileNotFoundError(f"{folder} is not a folder with {' and '.join(files)}.")
            folder = Path(
                snapshot_download(
                    str(name_or_path),
                    revision=revision,
                    token=token,
                    local_files_only=local_files_only,
                    allow_patterns=files,
                )
            )
        for file in files:
            if not (folder / file).is_file():
                raise FileNotFoundError(
                    f"{folder / file} is missing: a {cls.stem} folder holds {' and '.join(files)}, as save_pretrained "
                    "writes them (other formats are not loaded)."
                )
        path = folder / files[1]
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); build or download the {cls.stem} again.") from error
        expected = (f"decodetr-{cls.stem}", cls.format_version)
        got = (metadata.get("format"), metadata.get("format_version")) if isinstance(metadata, dict) else None
        if got != expected:
            raise ValueError(f"{path} must have format and format_version {expected}, got {got}.")
        path = folder / files[0]
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); build or download the {cls.stem} again.") from error
        try:
            return cls._from_parts(tensors, metadata)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} and {files[1]} do not hold a {cls.stem}: {error}") from error

    def card(self) -> str:
        """README.md of the artifact: what it is, and everything that `info` says about how it was made."""
        rows = []
        for key, value in sorted(self.info.items()):
            text = ", ".join(map(str, value[:5])) if isinstance(value, list) else str(value)
            text += f", ... ({len(value)})" if isinstance(value, list) and len(value) > 5 else ""
            rows.append((key, text))
        front = front_matter({"library_name": "decodetr", "tags": ["decodetr", f"decodetr-{self.stem}"]})
        return "\n".join([front, *self._card_lines(), "", markdown_table(("made with", ""), rows, left=2)])

    def push_to_hub(self, repo_id, private=None, token=None, commit_message=None):
        """Upload the two files and a card to a Hub repository, which is created if missing. A card that is there
        already is replaced. Returns the commit's information."""
        import tempfile

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            (Path(folder) / "README.md").write_text(self.card(), encoding="utf-8")
            return api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message or f"Upload {self.stem}"
            )


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
