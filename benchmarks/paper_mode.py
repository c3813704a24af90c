"""What the paper's temperatures, background and momentum do with the text embeddings of a CLIP (docs/paper_mode.md).

    python benchmarks/paper_mode.py names.npy captions.npy [more.npy ...] [--draw 6003] [--set pool_update=frozen]

The files hold text embeddings (n, d): of the names, and of captions, which are the prototypes. Image embeddings are
simulated, one of each name: cosine 0.27 with its name, 0.19 +- 0.025 with other texts, as published for CLIP ViT-B/32.
Prints the figures that `decodetr train` warns by, and its warnings.
"""

import argparse
from pathlib import Path

from decodetr.utils.arguments import extend_lists

RIGHT, OTHERS, SPREAD = 0.27, 0.19, 0.025
PAPER = {
    "assignment_temperature": 0.07,
    "teacher_temperature": 0.07,
    "teacher_name_temperature": 0.07,
    "name_temperature": 0.07,
    "centred": False,
    "background_threshold": -1,
    "background_level": -1,
    "residual_weight": None,
    "pool_update": "literal",
}
# A detector has to be there. It does not run.
_DETECTOR = {
    "model_type": "detr",
    "backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4},
    **{"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "num_queries": 1, "num_labels": 1},
}


def images_of(texts, among, generator):
    """Image embeddings (n, d + 1) of things with the text embeddings (n, d) among others (M, d). Both get a column of
    zeros, along which images lie off all texts."""
    import torch
    from torch.nn import functional as F

    mean = F.normalize(among.mean(0), dim=0)
    shared = OTHERS / (among @ mean).mean()
    covariance = torch.linalg.cholesky(among.T.cov() + 1e-6 * torch.eye(among.shape[1]))
    images = torch.zeros(len(texts), texts.shape[1] + 1)
    for row, text in enumerate(texts):
        own = F.normalize(text - (text @ mean) * mean, dim=0)  # what is particular about the name
        image = shared * mean + (RIGHT - shared * (text @ mean)) / (text @ own) * own
        other = covariance @ torch.randn(len(mean), generator=generator)  # what else is there, as texts differ
        for direction in (mean, own):
            other -= (other @ direction) * direction
        missing = max(SPREAD**2 - (among @ image).var(), 0) ** 0.5
        image = image + missing / (among @ other).std() * other
        images[row, :-1], images[row, -1] = image, max(1 - image @ image, 0) ** 0.5
    return F.normalize(images, dim=-1)


def report_of(names, captions, fields, seed=1):
    """(SpaceReport, its warnings) of a model with these names and prototypes (unit rows) and fields of the config."""
    import torch
    from torch.nn import functional as F

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, PrototypePool, Vocabulary
    from decodetr.training.start.space_report import describe_space

    images = images_of(names, captions, torch.Generator().manual_seed(seed))
    names, captions = F.pad(names, (0, 1)), F.pad(captions, (0, 1))
    sizes = {"embedding_dim": names.shape[1], "num_coarse_prototypes": 1, "num_fine_prototypes": 0}
    model = DeCoDetrForObjectDetection(DeCoDetrConfig(detector_config=_DETECTOR, **sizes, **fields))
    model.set_pool(PrototypePool(captions), Vocabulary([f"name {i}" for i in range(len(names))], names))
    report = describe_space(model, images, torch.arange(len(names)), captions)
    return report, report.problems()


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = arguments.add_argument
    add("names", type=Path, help="text embeddings of the names, .npy")
    add("captions", type=Path, nargs="+", help="text embeddings of captions, .npy")
    add("--rows", type=int, nargs="+", metavar="N", help="only these rows of the names")
    add("--draw", type=int, metavar="N", help="as many captions, drawn from a Gaussian with their mean and covariance")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields that are not the paper's")
    return extend_lists(arguments)


def load(args):
    """(names (K, d), captions (M, d)) of the arguments: distinct unit rows. With --draw drawn ones."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    names = F.normalize(torch.from_numpy(np.load(args.names)).float(), dim=-1)
    names = names if args.rows is None else names[args.rows]
    captions = torch.cat([torch.from_numpy(np.load(file)).float() for file in args.captions])
    captions = F.normalize(captions[captions.norm(dim=-1) > 0].unique(dim=0), dim=-1)
    if args.draw:
        generator = torch.Generator().manual_seed(0)
        spread = torch.linalg.cholesky(captions.T.cov() + 1e-6 * torch.eye(captions.shape[1]))
        drawn = torch.randn(args.draw, captions.shape[1], generator=generator) @ spread.T
        captions = F.normalize(captions.mean(0) + drawn, dim=-1)
    return names, captions


def main(argv=None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    from harness import say, table

    from decodetr.training.start.starting_point import config_fields

    names, captions = load(args)
    report, problems = report_of(names, captions, PAPER | config_fields(args.set))
    figures = {
        "names, prototypes": f"{len(names)}, {report.prototypes:,}",
        "the teacher gives the right name": f"{report.right:.2%}",
        "CLIP's own softmax over the names": f"{report.own:.1%}",
        "the teacher gives the background": f"{report.background:.1%}",
        "effective prototypes of a lookup": f"{report.lookup:,.0f}",
        "the best score of a name": f"{report.best:.2f}",
    }
    if report.moved is not None:
        figures[f"mean cosine of prototypes, after {report.steps} steps"] = f"{report.cosine:.3f}, {report.moved:.3f}"
    say(table(["", ""], list(figures.items())))
    for problem in problems:
        say(f"- {problem}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
