"""What the temperatures and the background that a pool build chooses do with the text embeddings of a real CLIP.

    python benchmarks/clip_space.py names.npy captions.npy [more.npy ...] [--rows 0 1 ...] [--base 0 1 ...]

The files hold text embeddings (n, d): of the names, and of captions, which are the prototypes. Images are simulated as
in paper_mode.py: of base names as annotated regions, by which the space is measured; others of all names; and of
captions that are far from every name, as things without one. Prints a row for each seed (docs/model.md).
"""

from decodetr.utils.arguments import extend_lists

EACH, NAMELESS, FAR = 20, 65, 0.85  # images of a base name. Things without a name, and their cosine to every name


def figures_of(names, base, captions, seed):
    """One row: right name of the teacher, of CLIP's own softmax, background where there is no name, prototypes that a
    lookup takes, and the score of the best embedding for a name.

    Args:
        names (K, d), captions (M, d): unit rows. base: rows of the names that are annotated.
    """
    import torch
    from paper_mode import images_of
    from torch.nn import functional as F

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, PrototypePool, Vocabulary
    from decodetr.modeling_decodetr.loss_decodetr import teacher_targets
    from decodetr.pool_builder.space import choose_scales, effective_number, space_without_names
    from decodetr.training.start.space_report import best_scores

    generator = torch.Generator().manual_seed(1000 + seed)  # captions are drawn with a seed of 0
    padded, prototypes = F.pad(names, (0, 1)), F.pad(captions, (0, 1))
    labels = torch.tensor(base).repeat_interleave(EACH)
    annotated = images_of(names[labels], captions, generator)
    some = torch.randperm(len(captions), generator=generator)[:400]
    regions = torch.cat([images_of(captions[some], captions, generator), annotated])
    texts = torch.cat([prototypes[some], padded[labels]])
    space = space_without_names(regions, texts, prototypes, logit_scale=100.0)
    numbers = torch.arange(len(base)).repeat_interleave(EACH)
    space |= choose_scales(space, prototypes, annotated, numbers, padded[torch.tensor(base)], seed)
    fields = {"embedding_dim": padded.shape[1], "num_coarse_prototypes": 1, "num_fine_prototypes": 0}
    model = DeCoDetrForObjectDetection(DeCoDetrConfig(detector_config=_detector(), **fields))
    vocabulary = Vocabulary([f"name {row}" for row in range(len(names))], padded)
    model.set_pool(PrototypePool(prototypes, info={"space": space}), vocabulary)
    tables = model.tables()
    nameless = captions[(captions @ names.T).amax(-1) < FAR]
    nameless = nameless[torch.randperm(len(nameless), generator=generator)[:NAMELESS]]
    every = torch.arange(len(names)).repeat_interleave(5)
    named, other = images_of(names[every], captions, generator), images_of(nameless, captions, generator)
    weights, taught = teacher_targets(torch.full((len(every),), -1), named, tables, annotation_weight=0.0)
    _, empty = teacher_targets(torch.full((len(other),), -1), other, tables, annotation_weight=0.0)
    own = (named @ padded.T * 100).softmax(-1)
    row = torch.arange(len(every))

    def log_probs(embeds):
        return model.semantic_stream.name_log_probs(embeds, tables)[0]

    return {
        "the right name, CLIP's own softmax": own[row, every].mean().item(),
        "the right name, teacher": taught[row, every].mean().item(),
        "background where nothing has a name": empty[:, -1].mean().item(),
        "prototypes in a lookup": effective_number(weights.log()),
        "best score of a name": best_scores(log_probs, tables.names).mean().item(),
    }


def _detector():
    from paper_mode import _DETECTOR

    return _DETECTOR


def parser():
    """The command's arguments."""
    from paper_mode import parser as of_paper_mode

    arguments = of_paper_mode()
    arguments.description = __doc__.split("\n\n")[0]
    arguments.add_argument("--base", type=int, nargs="+", metavar="N", help="rows of the names that are annotated")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the images")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and print."""
    args = parser().parse_args(argv)
    from harness import say, table
    from paper_mode import load

    names, captions = load(args)
    base = args.base or list(range(len(names)))
    rows = {seed: figures_of(names, base, captions, seed) for seed in args.seeds}
    heads = list(next(iter(rows.values())))
    say(f"{len(names)} names, {len(base)} of them annotated; {len(captions):,} prototypes")
    say(
        table(
            ["seed", *heads], [[str(seed), *(f"{value:.3g}" for value in row.values())] for seed, row in rows.items()]
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
