"""What coding cached features costs where the features are those of a trained backbone: names of annotated boxes.

    python benchmarks/photo_world.py run DIR                # or as much of it as writes DIR/world and DIR/untrained
    python benchmarks/feature_names.py --world DIR/world --detector DIR/untrained

The boxes of the world's training annotations, moved by a tenth of their size as a detector's are, are sampled from
the maps of the detector, whose backbone has ImageNet weights. Its own boxes are not used, so nothing of it needs
training. A ridge regression learns the names from samples as they are, from coded ones, and from the strongest
channels of PCA in eight bits, and then names boxes of other pictures, from samples as they are: which share is right.
No random number is drawn in learning, so that small differences show.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json


def sampled(args):
    """Samples (n, C_l, points) of each map, float16, and categories (n,) of the boxes."""
    import torch
    from tqdm.auto import tqdm
    from transformers import AutoModelForObjectDetection

    from decodetr import DeCoDetrImageProcessor
    from decodetr.modeling_decodetr.detectors import run_detector, watch_feature_maps
    from decodetr.modeling_decodetr.semantic_stream import RegionPooling
    from decodetr.utils.documents import read_json
    from decodetr.utils.images import open_image

    detector = AutoModelForObjectDetection.from_pretrained(args.detector).eval()
    watch_feature_maps(detector)
    processor = DeCoDetrImageProcessor.from_pretrained(args.detector)
    annotations = read_json(Path(args.world, "annotations", "train.json"), dict)
    boxes, generator = defaultdict(list), torch.Generator().manual_seed(0)
    for entry in annotations["annotations"]:
        boxes[entry["image_id"]].append((entry["bbox"], entry["category_id"]))
    pooling = RegionPooling([], 1, args.grid)
    parts, categories = [], []
    for picture in tqdm(annotations["images"][: args.images], unit="image"):
        if not (mine := boxes[picture["id"]]):
            continue
        image = open_image(Path(args.world, "train", picture["file_name"]))
        corner, size = torch.tensor([box for box, _ in mine]).float().split(2, 1)
        centre = corner + size / 2 + 0.1 * size * torch.randn(size.shape, generator=generator)
        size = size * torch.exp(0.1 * torch.randn(size.shape, generator=generator))
        placed = torch.cat([centre, size], 1) / torch.tensor([picture["width"], picture["height"]] * 2)
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            maps = run_detector(detector, pixels)[1]
            parts.append([level[0].half() for level in pooling.sample(maps, pixels, placed[None])])
        categories += [category for _, category in mine]
    return [torch.cat(level) for level in zip(*parts)], torch.tensor(categories)


def codings(samples, bits):
    """{name: (function from samples to decoded ones, bases, what is kept of each map)} of `bits` a number."""
    from decodetr.training.features.feature_coding import Moments

    points = samples[0].shape[2]
    size = int(bits * sum(level.shape[1] for level in samples) * points / 8)
    moments = Moments()
    moments.add(samples)
    coding = moments.fit(size)
    spectra = []
    for level, (mean, basis) in zip(samples, moments.components()):
        variances = (basis.T @ (level.float() - mean[:, None])).square().mean((0, 2))
        spectra.append((mean, basis, variances))
    best = sorted(
        ((v / variances.sum()).item(), level) for level, (_, _, variances) in enumerate(spectra) for v in variances
    )
    taken = [level for _, level in best[-(size // points) :]]
    bases, steps, kept = [], [], []
    for level, (mean, basis, variances) in enumerate(spectra):
        count = taken.count(level)
        bases.append((mean, basis[:, :count].contiguous()))
        steps.append((variances[:count].sqrt() * 8 / 127)[:, None])
        kept.append((variances[:count].sum() / variances.sum()).item())

    def channels(parts):
        projected = [b.T @ (part.float() - mean[:, None]) for part, (mean, b) in zip(parts, bases)]
        return [(part / step).round().clamp(-127, 127) * step for part, step in zip(projected, steps)]

    def as_it_is(parts):
        return [part.float() for part in parts]

    return {
        "as it is": (as_it_is, None, None),
        f"coded, {coding.size} bytes": (lambda parts: coding.decode(coding.encode(parts)), coding.bases, coding.kept),
        f"{', '.join(str(len(b.T)) for _, b in bases)} channels in eight bits": (channels, bases, kept),
    }


def share_right(samples, categories, decode, bases, args):
    """Percent of the boxes of each fold whose name is right, by a ridge regression of the names (one or zero) from the
    other folds' decoded samples, which then reads samples as they are."""
    import torch

    truth = torch.nn.functional.one_hot(categories).float()
    folds = torch.arange(len(categories)) * args.folds // len(categories)  # of whole pictures, but for the seams
    right = []
    for fold in range(args.folds):
        held = folds == fold
        learned = [part.float() for part in decode([level[~held] for level in samples])]
        seen = [level[held].float() for level in samples]
        if bases is not None:  # weights in the span read of whole maps what they read in its coordinates
            seen = [basis.T @ (part - mean[:, None]) for part, (mean, basis) in zip(seen, bases)]
        centres = [part.mean(0) for part in learned]
        scales = [((part - centre).square().mean() * part[0].numel()).sqrt() for part, centre in zip(learned, centres)]
        rows, others = (
            torch.cat([((p - c) / s).flatten(1) for p, c, s in zip(parts, centres, scales)], 1)
            for parts in (learned, seen)
        )
        kernel = rows @ rows.T
        kernel.diagonal().add_(args.ridge)
        weights = torch.linalg.solve(kernel, truth[~held] - truth[~held].mean(0))
        found = (others @ (rows.T @ weights)) + truth[~held].mean(0)
        right.append(100 * (found.argmax(1) == categories[held]).float().mean().item())
    return right


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    add("--world", required=True, metavar="DIR", help="of benchmarks/photo_world.py write")
    add("--detector", required=True, metavar="DIR", help="of benchmarks/photo_world.py, trained or not")
    add("--images", type=int, metavar="N", help="the first of them (default: all)")
    add("--bits", type=float, default=1.18, help="of a number: 10 KB a query are 1.18 of RT-DETRv2-R50")
    add("--grid", type=int, default=4, help="points of a box on each side")
    add("--folds", type=int, default=5, help="of the pictures: each is named by what the others taught")
    add("--ridge", type=float, default=0.1, help="of the regression; a map's samples have variance 1 in all")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import torch
    from harness import say, table

    from decodetr.speed.machine import environment

    if args.threads:
        torch.set_num_threads(args.threads)
    machine = environment(device="cpu", **vars(args))
    samples, categories = sampled(args)
    rows, first = [], None
    for name, (decode, bases, kept) in codings(samples, args.bits).items():
        found = share_right(samples, categories, decode, bases, args)
        first = first or found
        differences = [value - raw for value, raw in zip(found, first)]
        rows.append(
            {
                "samples": name,
                "variance kept, %": [round(100 * share, 1) for share in kept or []],
                "right, %": f"{statistics.fmean(found):.2f}",
                "over samples as they are": f"{statistics.fmean(differences):+.2f}",
                "of each fold": [round(value, 2) for value in differences],
            }
        )
    say(f"{len(categories)} boxes of {categories.unique().numel()} names")
    say(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if args.output:
        write_json(args.output, {"environment": machine, "names": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
