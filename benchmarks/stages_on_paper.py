"""Bytes, FLOPs, machines and hours of each stage, on paper: COCO, LVIS, Objects365 and a web-size set of images.

    python benchmarks/stages_on_paper.py                       # 8 H100, one machine of 64 cores
    python benchmarks/stages_on_paper.py --gpus 64xh100 --sets web

Nothing is run at these sizes. FLOPs of one image and one crop are counted on the models' shapes (RT-DETRv2-R50 at
640 x 640, CLIP ViT-B/16), those of a caption follow from the sizes of LLaVA-1.5-7B. Rates are those of the GPU's data
sheet, times what is assumed to be reached (below). docs/scale.md has the tables, and what breaks first.
"""

import argparse

from harness import say, table

from decodetr.utils.arguments import extend_lists

# The share of captions that are distinct, a guess. Sizes are those of `decodetr train --plan`.
SETS = {"coco": ("COCO", 0.9), "lvis": ("LVIS", 0.9), "objects365": ("Objects365", 0.7), "web": ("web size", 0.3)}
WEB_IMAGES = 33_333_334
WIDTH = 512  # of CLIP ViT-B/16
PROMPT, ANSWER = 40, 24  # tokens around a picture, and of a caption
PREFILL, BATCHED = 0.4, 0.2  # share of the peak: of a language model that reads a prompt, of CLIP in large batches
BANDWIDTH = {"h200": 4800, "h100": 3350, "a100": 2039, "l40s": 864, "rtx4090": 1008, "l4": 300}  # GB/s
CORE = 5e10  # FLOP/s of a core in float32 products: 72 measured on the two of docs/benchmarks.md, less in company
DECODE = 0.014  # seconds to read and prepare a picture on a core, measured by `decodetr train --plan`
COARSE, ASSIGNMENTS = 1203, 2  # M1, and how often each caption is compared with all centres


def counted(function) -> int:
    """FLOPs of a call."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def models() -> dict:
    """FLOPs: "detector" of an image, "clip" of a crop, "text" of a caption, "prefill" of a picture with its prompt,
    "token" of one more token. "weights": bytes of the captioner in bfloat16, "cache": of what it remembers of a token.
    "tokens": of picture and prompt."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForObjectDetection,
        CLIPConfig,
        CLIPModel,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaModel,
        LlavaConfig,
    )

    from decodetr.speed.catalog import OURS

    captioner = LlavaConfig()  # its defaults are LLaVA-1.5-7B
    language, eyes = captioner.text_config, captioner.vision_config
    # Not on the meta device, as it looks at a value.
    detector = AutoModelForObjectDetection.from_config(AutoConfig.for_model(**OURS["rt_detr_v2"].fields)).eval()
    seen = counted(lambda: detector(torch.zeros(1, 3, 640, 640)))
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}, projection_dim=WIDTH)).eval()
        eye = CLIPVisionModel(CLIPVisionConfig(**eyes.to_dict())).eval()
        speaker = LlamaModel(language).layers
        found = {
            "detector": seen,
            "clip": counted(lambda: clip.get_image_features(torch.zeros(1, 3, 224, 224))),
            "text": counted(lambda: clip.get_text_features(torch.zeros(1, 16, dtype=torch.int64))),
            "prefill": counted(lambda: eye(torch.zeros(1, 3, eyes.image_size, eyes.image_size))),
        }
    numbers = sum(parameter.numel() for parameter in speaker.parameters())
    tokens = (eyes.image_size // eyes.patch_size) ** 2 + PROMPT
    attention = 2 * tokens * tokens * language.hidden_size * language.num_hidden_layers  # the causal half
    found["prefill"] += 2 * numbers * tokens + attention
    width = language.num_key_value_heads * (language.hidden_size // language.num_attention_heads)
    remembered = 2 * 2 * width * language.num_hidden_layers  # keys and values, bfloat16
    return found | {"token": 2 * numbers, "weights": 2 * numbers, "cache": remembered, "tokens": tokens}


def caption_seconds(cost, gpu, bandwidth) -> tuple[float, float]:
    """Seconds of a caption on one GPU: (reading picture and prompt, writing the answer). While it writes, all captions
    that fit into memory share one reading of the weights."""
    together = (0.9 * gpu.memory * 1e9 - cost["weights"]) // (cost["cache"] * (cost["tokens"] + ANSWER))
    memory = cost["weights"] + together * cost["cache"] * cost["tokens"]
    return cost["prefill"] / (PREFILL * gpu.bf16 * 1e12), ANSWER * memory / (bandwidth * 1e9) / together


def size_of(name) -> tuple[int, int]:
    """(images, regions) of a set."""
    from decodetr.training.planning.plan import REGIONS, SIZES

    return (SIZES[name].images, SIZES[name].regions) if name in SIZES else (WEB_IMAGES, REGIONS * WEB_IMAGES)


def stages(name, cost, count, gpu, bandwidth, cores):
    """Rows of the table of one set: stage, what it does, FLOPs, hours on the GPUs or cores, bytes it writes."""
    from decodetr.training.features.feature_building import QUERY_BYTES
    from decodetr.training.planning.plan import UTILISATION, region_bytes
    from decodetr.utils.preflight import in_units

    (title, distinct), (images, regions) = SETS[name], size_of(name)
    captions = int(distinct * regions)
    half, single = gpu.bf16 * 1e12 * count, gpu.tf32 * 1e12 * count
    reading, writing = caption_seconds(cost, gpu, bandwidth)
    kmeans = 2 * captions * COARSE * WIDTH * ASSIGNMENTS
    pairs = COARSE * (captions / COARSE) ** 2 * WIDTH  # all pairs of a coarse cluster once, two FLOPs a product
    embed = regions * cost["clip"] + captions * cost["text"]

    def hours(seconds):
        return f"{seconds / 3600:,.2g}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"

    def row(stage, flops, seconds, where, written):
        return [stage, f"{flops:.1e}" if flops else "", hours(seconds), where, in_units(written)]

    pictures = images * DECODE / cores
    looked_at = images * cost["detector"] / (UTILISATION * single)
    on_gpus, on_cores = f"{count} GPUs", f"{cores} cores"
    slow = on_cores if pictures > looked_at else on_gpus
    return title, [
        row("proposals", images * cost["detector"], max(looked_at, pictures), slow, regions * 40),
        row("captions", regions * (cost["prefill"] + ANSWER * cost["token"]), regions * (reading + writing) / count,
            on_gpus, regions * 80),
        row("embeddings", embed, max(embed / (BATCHED * half), pictures), on_gpus, regions * 4 * WIDTH),
        row("regions (all columns)", 0, 0, on_cores, regions * region_bytes(WIDTH)),
        row("coarse clusters", kmeans, kmeans / (CORE * cores), on_cores, captions * 2 * WIDTH),
        row("fine clusters, all pairs", pairs, pairs / (CORE * cores), on_cores, captions * 8),
        row("cached features", images * cost["detector"], max(looked_at, pictures), slow, regions * QUERY_BYTES),
    ]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--gpus", default="8xh100", help="a number and a GPU (default: %(default)s)")
    arguments.add_argument("--cores", type=int, default=64, help="processors of all machines (default: %(default)s)")
    arguments.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS), help="(default: all)")
    return extend_lists(arguments)


def main() -> None:
    """Print the tables."""
    from decodetr.training.planning.plan import GPUS, parse_machine

    args = parser().parse_args()
    count, name = parse_machine(args.gpus)
    gpu, cost = GPUS[name], models()
    say(f"COMPUTED, not measured: {count} x {name}, {args.cores} cores.\n")
    say(
        f"GFLOP: detector {cost['detector'] / 1e9:.0f} an image, CLIP {cost['clip'] / 1e9:.0f} a crop and "
        f"{cost['text'] / 1e9:.1f} a caption, captioner {cost['prefill'] / 1e9:,.0f} a picture with prompt "
        f"({cost['tokens']} tokens) and {cost['token'] / 1e9:.1f} a token more.\n"
    )
    for key in args.sets:
        title, rows = stages(key, cost, count, gpu, BANDWIDTH[name], args.cores)
        images, regions = size_of(key)
        say(f"**{title}**: {images:,} images, {regions:,} regions\n")
        say(table(["stage", "FLOP", "hours", "on", "writes"], rows) + "\n")


if __name__ == "__main__":
    main()
