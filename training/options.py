"""The options of a training run."""


def goes_on(args):
    """Whether a run goes on with all of a trained model, which can then forget."""
    return bool(args.model) and not args.reset_semantics
