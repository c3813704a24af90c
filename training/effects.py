"""Options of `decodetr train` that would do nothing beside the others: said before anything is read."""

from decodetr.training.command import goes_on

CAPTIONS_NEED = (
    "captions move the pool, which stays as it is here; let it move (--set pool_update=stable), or leave captions out"
)


def check_effects(args, training):
    """
    Args:
        args: of the command. training (DeCoDetrTrainingArguments).

    Raises:
        ValueError: an option has no effect in this run; the message says why, and what to change.
    """
    shifted, one_view = args.blur or args.noise, training.cache_features and training.cache_views == 1
    boxes_alone = training.streams == "localization"
    rows = (
        (args.shuffle_buffer is not None and not args.streaming, "--shuffle-buffer is for --streaming: leave it out"),
        (shifted and args.no_augmentation, "--blur and --noise are augmentations: leave out --no-augmentation"),
        (
            shifted and one_view,
            "--blur and --noise change cached images but the first view: give --cache_views 2",
        ),
        (
            args.replay_images is not None and not args.replay_data,
            "--replay-images is a part of --replay-data",
        ),
        (args.held_out_data and not goes_on(args), "--held-out-data shows what a --model forgets: leave it out"),
        (
            args.pseudo_box_score is not None and args.pseudo_boxes == "none",
            "--pseudo-box-score says which regions are pseudo boxes, and --pseudo-boxes none has none: leave one out",
        ),
        *(
            (
                boxes_alone and given,
                f"{option} is for the semantic stream, not for --streams localization",
            )
            for option, given in (
                ("--captions", args.captions),
                ("--image-labels", args.image_labels),
                ("--exhaustive", args.exhaustive is not None),
            )
        ),
    )
    for useless, words in rows:
        if useless:
            raise ValueError(words)


def check_captions(config, given):
    """ValueError for captions of images that could not move anything: they only enter the pool's momentum step."""
    if given and (config.pool_update == "frozen" or config.pool_use == "none"):
        raise ValueError(f"--captions: pool_update={config.pool_update}, pool_use={config.pool_use}: {CAPTIONS_NEED}")
