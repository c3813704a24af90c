"""The rows, the questions that they answer, and what the paper claims. Plain data.

A row is one way to train. A question compares rows with the first of them, on one world, or the same rows over worlds
that differ in the number of base names.
"""

from dataclasses import dataclass, field
from typing import Any

_NO_LOOKUP = {"distill_weight": 0.0}
_CONSTANT = {"--align_weight_shape": "constant"}


@dataclass(frozen=True)
class Setup:
    """
    What is decided before features are made.

    Args:
        queries: times N, of the same detector.
        setting: of `SETTINGS` in training/options/provenance.py: what training may know.
        templates: that names are embedded with, in training and in evaluation. None: those of the world's vocabulary.
    """

    queries: float = 1
    setting: str = "V-OVD"
    templates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Row:
    """
    One way to train.

    Args:
        words: what it is, in a table.
        pool (dict): fields of `PoolChange`. fields (dict): of the model's config.
        captioner: whose captions of the same regions the pool is built of, by its word in `World.captioners`. None:
            the world's.
        training (dict): options of the training, by their words.
        begin: name of a change to the new model, of `BEGINNINGS` in beginnings.py.
        end: name of a change to the trained one, of `ENDINGS` in extension.py.
        joint (bool): both streams are trained, over the images, from the localization of the world's model.
        setup ([`Setup`]).
    """

    words: str
    pool: dict[str, Any] = field(default_factory=dict)
    captioner: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    begin: str | None = None
    end: str | None = None
    joint: bool = False
    setup: Setup = Setup()


def _joint(words, mixed=False, constant=True, **fields):
    fields = {"gradient_isolation": False, **fields} if mixed else fields
    return Row(words, fields=fields, training=_CONSTANT if constant else {}, joint=True)


# Texts that a name may stand in, none of which says anything of it.
_ENSEMBLE = ("{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "this is a {}")
_TEMPERATURES = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2)
_APART = (0.01, 0.02, 0.1, 0.2)
ROWS = {
    "captions": Row("captions (the default)"),
    "none": Row("no pool", fields={"pool_use": "none", **_NO_LOOKUP}),
    "random": Row("random prototypes", pool={"random": True}),
    "background": Row("pool as background alone", fields={"pool_use": "background", **_NO_LOOKUP}),
    "free": Row("lookup + MLP, unbounded (paper 2.4)", fields={"residual_weight": None}),
    "residual-1": Row("beta = 1", fields={"residual_weight": 1.0}),
    "residual-0.25": Row("beta = 0.25", fields={"residual_weight": 0.25}),
    "lookup-alone": Row("the lookup alone, no MLP", fields={"residual_weight": 1e-6}),
    "predictor-random": Row("g_phi begins with random weights", begin="random predictor"),
    "distill-none": Row("no L_distill", fields={"distill_weight": 0.0}),
    "distill-query": Row("L_distill at q^ (paper 2.6)", fields={"distill_at": "query"}),
    "distill-embedding": Row("L_distill at what is compared with names", fields={"distill_at": "embedding"}),
    "fine-0": Row("M2 = 0", pool={"fine": 0}),
    "fine-1/4": Row("M2 x 1/4", pool={"fine": 0.25}),
    "fine-2": Row("M2 x 2", pool={"fine": 2}),
    "one-level": Row("one level of M1 + M2 coarse prototypes", pool={"levels": 1}),
    "coarse-1/4": Row("M1 x 1/4", pool={"coarse": 0.25}),
    "coarse-1/2": Row("M1 x 1/2", pool={"coarse": 0.5}),
    "coarse-2": Row("M1 x 2", pool={"coarse": 2}),
    "momentum-literal": Row("the paper's rule, gamma 0.99", fields={"pool_update": "literal"}),
    "momentum-literal-0": Row("the paper's rule, gamma 0", fields={"pool_update": "literal", "pool_momentum": 0.0}),
    **{
        f"temperature-{value}": Row(
            f"alpha = tau = {value}", fields={"assignment_temperature": value, "teacher_temperature": value}
        )
        for value in _TEMPERATURES
    },
    **{f"alpha-{value}": Row(f"alpha = {value}", fields={"assignment_temperature": value}) for value in _APART},
    **{f"tau-{value}": Row(f"tau = {value}", fields={"teacher_temperature": value}) for value in _APART},
    **{
        f"lost-{share}": Row(f"{share} % of the words lost", pool={"lost": share / 100}) for share in (25, 50, 75, 100)
    },
    "captioner-32": Row("a LLaVA of 32 channels and 1 layer", captioner="32"),
    "captioner-64": Row("a LLaVA of 64 channels and 2 layers", captioner="64"),
    **{f"captioned-1/{n}": Row(f"1 of {n} regions captioned", pool={"share": 1 / n}) for n in (4, 16, 64)},
    **{f"best-{share}": Row(f"the best {share} % kept", pool={"best": share / 100}) for share in (100, 50, 25)},
    "query": Row("the query alone (paper 2.2)", fields={"semantic_inputs": "query"}),
    "no-thumbnails": Row("query and maps, no thumbnails", fields={"region_pixels": 0}),
    "thumbnails-32": Row("thumbnails of 32 x 32", fields={"region_pixels": 32}),
    **{
        f"queries-{words}": Row(f"N x {words}", setup=Setup(queries=times))
        for words, times in (("1/4", 0.25), ("1/2", 0.5), ("2", 2), ("4", 4))
    },
    "c-ovd": Row("C-OVD: captions of images join the pool", setup=Setup(setting="C-OVD")),
    "g-ovd": Row("G-OVD: names of novel classes", setup=Setup(setting="G-OVD")),
    "ws-ovd": Row("WS-OVD: these names, and labels of images", setup=Setup(setting="WS-OVD")),
    "g-ovd-query": Row("G-OVD, L_distill at q^", fields={"distill_at": "query"}, setup=Setup(setting="G-OVD")),
    "ws-ovd-query": Row("WS-OVD, L_distill at q^", fields={"distill_at": "query"}, setup=Setup(setting="WS-OVD")),
    **{f"top-{count}": Row(f"the {count} closest prototypes", begin=f"top {count}") for count in (4, 16, 64)},
    "coarse-then-fine-1": Row("the closest coarse one and its fine ones", begin="coarse then fine 1"),
    **{
        f"coarse-then-fine-{count}": Row(
            f"the {count} closest coarse ones and their fine ones", begin=f"coarse then fine {count}"
        )
        for count in (4, 16)
    },
    "prompt-bare": Row("the name itself", setup=Setup(templates=("{}",))),
    "prompt-photo": Row("a photo of a NAME.", setup=Setup(templates=("a photo of a {}.",))),
    "prompt-ensemble": Row(f"the mean of {len(_ENSEMBLE)} templates", setup=Setup(templates=_ENSEMBLE)),
    **{
        f"relations-{weight}": Row(f"cosines between regions, weight {weight}", begin=f"relations {weight}")
        for weight in (1, 10)
    },
    "bags": Row("the sum of an image's regions, weight 1", begin="bags 1"),
    **{
        f"calibrated-{strength}": Row(f"calibrated, strength {strength}", begin=f"calibrated {strength}")
        for strength in (0.5, 1)
    },
    "extended": Row("extended by validation images", end="extend pool"),
    "captioned-1/64-extended": Row(
        "1 of 64 regions captioned, extended by validation images", pool={"share": 1 / 64}, end="extend pool"
    ),
    "narrow": Row("32 channels, nothing dropped", fields={"region_channels": 32, "semantic_dropout": 0.0}),
    "dropped-0": Row("nothing dropped", fields={"semantic_dropout": 0.0}),
    "dropped-0.5": Row("half of it dropped", fields={"semantic_dropout": 0.5}),
    "hidden-1024": Row("1,024 hidden units", fields={"semantic_hidden_dim": 1024}),
    "hidden-1024-dropped-0.5": Row(
        "1,024 hidden units, half of it dropped", fields={"semantic_hidden_dim": 1024, "semantic_dropout": 0.5}
    ),
    "joint-none": _joint("baseline: no pool", mixed=True, pool_use="none", **_NO_LOOKUP),
    "joint-pool": _joint("+ pool", mixed=True),
    "joint-isolation": _joint("+ isolation"),
    "joint-cosine": _joint("+ cosine lambda(t): the whole method", constant=False),
    "joint-cosine-mixed": _joint("cosine lambda(t), no isolation", mixed=True, constant=False),
    "joint-linear": Row("linear lambda(t)", training={"--align_weight_shape": "linear"}, joint=True),
}


@dataclass(frozen=True)
class Question:
    """
    What rows are compared for.

    Args:
        title: of the section. asks: the question, a sentence.
        rows: keys of ROWS. The first is what the others are compared with.
        over (str): "rows", or "base names": the same rows over worlds with ever more of them.
        axis: values of the rows on the axis of the picture, where they have an order. None: no picture.
        label: of that axis. log (bool): whether it is logarithmic.
    """

    title: str
    asks: str
    rows: tuple[str, ...]
    over: str = "rows"
    axis: dict[str, float] | None = None
    label: str = ""
    log: bool = False


QUESTIONS = {
    "base-names": Question(
        "How many names need boxes before the pool is worth nothing?",
        "The paper has 48 base names and measures no other number. Few names leave directions of the embedding space "
        "open, of which boxes say nothing.",
        ("none", "captions", "random"),
        over="base names",
        label="names with boxes",
        log=True,
    ),
    "pool": Question(
        "Is it the content of the pool?",
        "Captions against as many random prototypes, against the pool as background alone, and against no pool.",
        ("captions", "random", "background", "none"),
    ),
    "residual": Question(
        "What may by-pass the lookup?",
        "r_n = unit(lookup) + beta unit(MLP(q^)) with beta 0.5 against other betas, the paper's unbounded sum and the "
        "lookup alone; and g_phi that does not begin as the identity.",
        ("captions", "free", "residual-1", "residual-0.25", "lookup-alone", "predictor-random"),
    ),
    "distill": Question(
        "Where should distillation act?",
        "At q^, as the paper has it, at what is compared with names, at both, which is the default, or nowhere.",
        ("captions", "distill-query", "distill-embedding", "distill-none"),
    ),
    "fine": Question(
        "Are fine prototypes needed?",
        "M2 of 0, a quarter, twice; and one level of as many prototypes.",
        ("captions", "fine-0", "fine-1/4", "fine-2", "one-level"),
        axis={"fine-0": 0, "fine-1/4": 0.25, "captions": 1, "fine-2": 2},
        label="M2, times that of the pool",
    ),
    "coarse": Question(
        "How many coarse prototypes?",
        "M1 of a quarter, half and twice, with M2 as it is.",
        ("captions", "coarse-1/4", "coarse-1/2", "coarse-2"),
        axis={"coarse-1/4": 0.25, "coarse-1/2": 0.5, "captions": 1, "coarse-2": 2},
        label="M1, times that of the pool",
        log=True,
    ),
    "momentum": Question(
        "Does the pool have to move?",
        "Frozen against the paper's rule, with gamma 0.99 and 0. A rule that kept prototypes at unit length and moved "
        "them as far as captions were assigned to them is gone: it made no difference (design_history.md, Momentum).",
        ("captions", "momentum-literal", "momentum-literal-0"),
    ),
    "temperature": Question(
        "Which temperature has the lookup?",
        "alpha and tau, the same value for both, against those that the pool's space chose.",
        ("captions", *(f"temperature-{value}" for value in _TEMPERATURES)),
        axis={f"temperature-{value}": value for value in _TEMPERATURES},
        label="alpha = tau",
        log=True,
    ),
    "temperatures": Question(
        "alpha or tau?",
        "One of them changed, the other as the space chose it: alpha is that of the lookup, tau that of what "
        "L_distill teaches.",
        ("captions", *(f"{name}-{value}" for name in ("alpha", "tau") for value in _APART)),
    ),
    "captioner": Question(
        "How good must the captioner be?",
        "Words that say something are left out of every caption at random, as a vaguer captioner would.",
        ("captions", "lost-25", "lost-50", "lost-75", "lost-100"),
        axis={"captions": 0, "lost-25": 25, "lost-50": 50, "lost-75": 75, "lost-100": 100},
        label="words lost, %",
    ),
    "captioners": Question(
        "What is a larger captioner worth?",
        "The pools that `pool build` makes of the same regions with smaller LLaVAs, whose captions name fewer things "
        "([captioners of three sizes](photo_world.md#captioners-of-three-sizes)). The default has 128 channels and 3 "
        "layers.",
        ("captions", "captioner-64", "captioner-32"),
    ),
    "captioned": Question(
        "How many regions must be captioned?",
        "The pool of a random share of the regions.",
        ("captions", "captioned-1/4", "captioned-1/16", "captioned-1/64"),
        axis={"captioned-1/64": 1 / 64, "captioned-1/16": 1 / 16, "captioned-1/4": 1 / 4, "captions": 1},
        label="share of the regions",
        log=True,
    ),
    "delta": Question(
        "Where should the filter cut?",
        "The pool of the regions whose crop and caption agree best, by another delta.",
        ("captions", "best-100", "best-50", "best-25"),
    ),
    "inputs": Question(
        "What must the semantic stream read?",
        "The query alone, without thumbnails, with larger ones, and a narrower stream without dropout.",
        ("captions", "query", "no-thumbnails", "thumbnails-32", "narrow"),
    ),
    "width": Question(
        "How wide must the semantic stream be?",
        "The default has 96 channels of each map and at least 512 hidden units, of which training drops 0.3.",
        ("captions", "narrow", "dropped-0", "dropped-0.5", "hidden-1024", "hidden-1024-dropped-0.5"),
    ),
    "queries": Question(
        "How many queries?",
        "The detector was trained with N queries and gives another number of its proposals, over which the semantic "
        "stream is trained and asked. A step reads as many of an image as ever: of few of them more objects. The "
        "paper trains a detector for each number.",
        ("captions", "queries-1/4", "queries-1/2", "queries-2", "queries-4"),
        axis={"queries-1/4": 0.25, "queries-1/2": 0.5, "captions": 1, "queries-2": 2, "queries-4": 4},
        label="queries, times those that the detector was trained with",
        log=True,
    ),
    "settings": Question(
        "What is it worth to know more in training?",
        "The names of novel classes, so that the teacher may take a region for one; which names are somewhere in "
        "an image; and captions of images, each of which names two of its objects. With all names in training, "
        "L_distill at q^ alone might do.",
        ("captions", "c-ovd", "g-ovd", "g-ovd-query", "ws-ovd", "ws-ovd-query"),
    ),
    "lookup": Question(
        "Must a lookup read the whole pool?",
        "A lookup in the prototypes alone that are closest to q^, or in the closest coarse ones and their fine ones. "
        "L_distill compares over all of them as before.",
        (
            "captions",
            "top-4",
            "top-16",
            "top-64",
            "coarse-then-fine-1",
            "coarse-then-fine-4",
            "coarse-then-fine-16",
        ),
    ),
    "prompts": Question(
        "Which texts stand for a name?",
        "One template against the name itself and an ensemble, in training and in evaluation.",
        ("prompt-photo", "prompt-bare", "prompt-ensemble"),
    ),
    "targets": Question(
        "What else may a query learn of its teacher?",
        "Besides what each region is: how much any two regions of a batch resemble each other (relational "
        "distillation), or what the regions of an image are together (bags of regions).",
        ("captions", "relations-1", "relations-10", "bags"),
    ),
    "calibration": Question(
        "Can the pool calibrate names?",
        "In inference, a name that more captions of the pool are close to than to others has to be more certain.",
        ("captions", "calibrated-0.5", "calibrated-1"),
    ),
    "extension": Question(
        "Can the pool grow in use?",
        "After training, clusters of what CLIP sees in unlabelled validation images join the pool as prototypes, "
        "without captions: of a pool of few captions, and of the whole one.",
        ("captioned-1/64", "captioned-1/64-extended", "captions", "extended"),
    ),
    "ladder": Question(
        "The paper's ladder, in joint training",
        "No pool, + pool, + gradient isolation, + cosine lambda(t), each with those above it; and without isolation.",
        ("joint-none", "joint-pool", "joint-isolation", "joint-cosine", "joint-cosine-mixed", "joint-linear"),
    ),
    "isolation": Question(
        "What are isolation and schedule worth beside each other?",
        "The whole method in joint training, without isolation, with a constant lambda, and without both.",
        ("joint-cosine", "joint-cosine-mixed", "joint-isolation", "joint-pool"),
    ),
}


@dataclass(frozen=True)
class Claim:
    """
    What the paper says that one thing changes.

    Args:
        words: the claim. points: novel AP50 that `row` has more than `reference`, as the paper claims it; None where
            it claims no number of points.
        row, reference: keys of ROWS that show it, or None where no row can.
        stand_in (bool): they show another thing of its kind, so that its size says nothing.
        why: what is missing, where none can.
    """

    words: str
    points: float | None = None
    row: str | None = None
    reference: str | None = None
    stand_in: bool = False
    why: str = ""


CLAIMS = (
    Claim("The pool adds 6.2 to novel AP50 (30.4 to 36.6)", 6.2, "captions", "none"),
    Claim("Gradient isolation adds 0.9 (36.6 to 37.5)", 0.9, "joint-isolation", "joint-pool"),
    Claim("A cosine lambda(t) adds 3.8 (37.5 to 41.3)", 3.8, "joint-cosine", "joint-isolation"),
    Claim("All three together add 10.9 (30.4 to 41.3)", 10.9, "joint-cosine", "joint-none"),
    Claim("Without fine prototypes (M2 = 0) 10.5 are lost", -10.5, "fine-0", "captions"),
    Claim("Twice as many fine prototypes add 0.2", 0.2, "fine-2", "captions"),
    Claim("Better captions add 8.8 (30.1 with LLaVA-1.5 7B, 38.9 with the best)", 8.8, "captions", "lost-50", True),
    Claim("2,000 queries instead of 300 add 4.8", 4.8, "queries-4", "captions", True),
    Claim("Names of novel classes in training add 5.8 (G-OVD, 47.1)", 5.8, "g-ovd", "captions"),
    Claim("Labels of images add 4.2 (WS-OVD, 45.5)", 4.2, "ws-ovd", "captions"),
    Claim("OV-LVIS: AP_rare 29.4, AP 35.2", why="LVIS and a GPU"),
    Claim("41.3 novel and 55.5 base AP50 on OV-COCO", why="COCO and a GPU"),
)
