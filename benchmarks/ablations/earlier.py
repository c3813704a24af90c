"""What has no results here: links to what was measured before the rows were there, or elsewhere, for questions without
results, and what could be a row and is none."""

# (question, key of the question that replaces it or "", what came out, text of the link, its target)
EARLIER = (
    (
        "Is the content of the pool worth anything?",
        "pool",
        "Yes, where few names have boxes. Names without a box, with boxes of 12 names: captions 78.1, random "
        "prototypes 59.4, no pool 29.3 AP50 (three seeds)",
        "scenes",
        "scenes.md#what-names-without-boxes-reach",
    ),
    (
        "Does a class-agnostic localization find more?",
        "",
        "Yes: class-agnostic AP50 92.7 instead of 71.2",
        "design trial",
        "design_history.md#the-design-trial",
    ),
    (
        "Is the query enough for a name?",
        "inputs",
        "No: novel AP50 5.9 from the query, 77.1 with its region",
        "design trial",
        "design_history.md#the-design-trial",
    ),
    (
        "Does isolating the streams help?",
        "",
        "Then it did: boxes 92.7 instead of 88.9, novel names 77.1 instead of 73.0. In joint training it brings no AP "
        "(question `isolation`)",
        "design trial",
        "design_history.md#the-design-trial",
    ),
    (
        "Does the background matter?",
        "",
        "Yes: with one name in the vocabulary, AP50 falls from 78.2 to 2.0 without it",
        "design trial",
        "design_history.md#the-design-trial",
    ),
    (
        "Do the paper's temperatures work with a real CLIP?",
        "",
        "No: the teacher gives the right name 4 %, and a lookup reads nearly the whole pool",
        "the paper to the letter",
        "paper_mode.md#what-cannot-work-with-a-real-clip",
    ),
    (
        "Must the lookup be bounded?",
        "residual",
        "Yes: 7.9 with the stream of before, 77.1 with it (12 names with boxes)",
        "the lookup",
        "design_history.md#the-lookup",
    ),
    (
        "Does the pool's momentum help?",
        "momentum",
        "No: it collapses, or does not move",
        "momentum",
        "design_history.md#momentum",
    ),
    (
        "Width and dropout of the semantic stream",
        "inputs",
        "96 channels and 0.3 dropped instead of 32 and 0: 79.3 instead of 77.1",
        "what h_theta reads",
        "design_history.md#what-h_theta-reads",
    ),
    (
        "Thumbnails of the region",
        "inputs",
        "The drawn scenes need them (81.1 instead of 45.7); photographs do not",
        "thumbnails",
        "design_history.md#thumbnails",
    ),
    (
        "Regions whose caption failed",
        "",
        "On photographs they are worth teaching: 25.0 instead of 20.8",
        "photo world",
        "photo_world_log.md#names-are-learned-by-heart",
    ),
    (
        "Objects without a box as objects",
        "",
        "83.6 instead of 81.0, three seeds",
        "shipped models",
        "scenes.md#shipped-models",
    ),
    (
        "Fewer queries read",
        "",
        "The same AP from 32 of 60 queries",
        "which queries are read",
        "model.md#which-queries-are-read",
    ),
)

# (what could be a row, why it is none)
NOT_BUILT = (
    (
        "Re-clustering of the pool during training",
        "Captions and their embeddings do not change in training: the same clusters come out",
    ),
    (
        "CLIP's embedding of the whole image as a target",
        "Regions and cached features have none. What the regions of an image are together is a row (`bags`)",
    ),
    (
        "A detector trained for each number of queries",
        "Hours for each. The rows of `queries` take other numbers from one detector",
    ),
    (
        "Regions from a frozen CLIP or ImageNet backbone",
        "It would be another detector. The one of the photo world stands on an ImageNet backbone",
    ),
)
