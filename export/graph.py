"""The model as a module with tensors in and tensors out, for exporters."""

from __future__ import annotations

import torch

from decodetr.export.settings import ExportSettings
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

OUTPUTS = {"outside": ("logits", "pred_boxes"), "inside": ("scores", "labels", "boxes")}


class DetectionGraph(torch.nn.Module):
    """
    A DeCo-DETR in evaluation mode as a function of tensors. Names are those of the model, or inputs.

    Args:
        model (DeCoDetrForObjectDetection): in the dtype of the graph.
        settings (ExportSettings).
    """

    def __init__(self, model: DeCoDetrForObjectDetection, settings: ExportSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(
        self,
        pixel_values: torch.Tensor,
        name_rows: torch.Tensor | None = None,
        log_share: torch.Tensor | None = None,
        background: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            pixel_values (B, 3, H, W) float32.
            name_rows (K, d), log_share (K,) and background (M,) bool: names, as [`NameTables`] has them.

        Returns:
            "logits" (B, N, K) and "pred_boxes" (B, N, 4) as of the model, or with post-processing inside "scores" (B,
            k), descending, "labels" (B, k) int64 and "boxes" (B, k, 4), x0, y0, x1, y1 in 0..1 of the image. Floats
            are float32.
        """
        tables = self.model.tables()
        if name_rows is not None and log_share is not None:
            tables = tables._replace(vocabulary=_Shares(log_share), names=name_rows, background=background)
        found = self.model(
            pixel_values.to(self.model.dtype),
            tables=tables,
            min_score=0.0,  # all queries, also where the model itself is called
            semantic_queries=self.settings.semantic_queries,
        )
        logits, boxes = found.logits.float(), found.pred_boxes.float()
        if self.settings.post_processing == "outside":
            return {"logits": logits, "pred_boxes": boxes}
        values, pairs = logits.flatten(1).topk(self.settings.top_k, dim=1)
        names = logits.shape[2]
        query = torch.div(pairs, names, rounding_mode="floor")
        centre, side = boxes.split(2, dim=-1)
        corners = torch.cat([centre - 0.5 * side, centre + 0.5 * side], dim=-1)
        return {
            "scores": 1 / (1 + (-values).exp()),  # the sigmoid of ONNX Runtime is off by 3e-8, of small scores much
            "labels": pairs - query * names,  # %, which cannot go into ONNX where names are an input
            "boxes": corners.gather(1, query[..., None].expand(-1, -1, 4)),
        }


class _Shares(torch.nn.Module):
    """What a forward uses of a vocabulary, where names are inputs of the graph."""

    names: tuple[str, ...] = ()

    def __init__(self, log_share: torch.Tensor) -> None:
        super().__init__()
        self._share = [log_share]  # in a list: no parameter, no buffer

    def log_normaliser(self, logits: torch.Tensor) -> torch.Tensor:
        """As of [`Vocabulary`], as a product, which runtimes do faster than a log-sum-exp of many names."""
        most = logits.amax(-1, keepdim=True)
        return ((logits - most).exp() @ self._share[0].exp()).log() + most.squeeze(-1)
