"""What people would write about a photograph: its description, its name, near-synonyms, its kind, in varying words.

The small CLIP and LLaVA of the photo world learn from these, as `scenes/captions.py` has it for the drawn one.
"""

from decodetr.scenes.captions import EMPTY, PROMPTS

# Words for things of the package that its descriptions do not have. Only those whose name is in the world are used.
SYNONYMS = {
    "airplane": ("aeroplane", "plane"),
    "apc": ("armoured vehicle",),
    "bus": ("coach",),
    "camera": ("photo camera",),
    "caribou": ("reindeer",),
    "chimpanzee": ("chimp",),
    "corn": ("maize", "corn cob"),
    "cow": ("cattle",),
    "donkey": ("ass",),
    "eggplant": ("aubergine",),
    "fireman": ("firefighter",),
    "fire": ("flame",),
    "fire truck": ("fire engine",),
    "freshwater mussel": ("mussel",),
    "frog": ("toad",),
    "garbage can": ("trash can", "dustbin"),
    "garbage truck": ("refuse lorry",),
    "garden spade": ("shovel",),
    "gravestone": ("grave",),
    "headstone": ("grave stone",),
    "tombstone": ("grave stone",),
    "hippopotamus": ("hippo",),
    "horse": ("mare",),
    "hot air balloon": ("balloon",),
    "lightbulb": ("light bulb", "bulb"),
    "magpie": ("black and white bird",),
    "mailbox": ("letter box",),
    "moon": ("full moon",),
    "mug": ("cup",),
    "orca": ("killer whale",),
    "paintbrush": ("brush",),
    "pickup truck": ("pickup",),
    "pig": ("hog", "swine"),
    "pigeon": ("dove",),
    "pliers": ("pincers",),
    "pumpkin": ("squash",),
    "rabbit": ("hare",),
    "race car": ("racing car",),
    "rhino": ("rhinoceros",),
    "rooster": ("cock",),
    "saw": ("hand saw",),
    "sedan car": ("car", "saloon car"),
    "soccer ball": ("football",),
    "sports car": ("convertible",),
    "tricycle": ("toy bike",),
    "wapiti": ("elk",),
    "wrench": ("spanner",),
    "yam": ("sweet potato",),
}
# The word for one thing of a folder where the folder's name without its s is none
_KINDS = {
    "aquatic": "sea animal",
    "apes": "ape",
    "arttools": "drawing tool",
    "auto": "car",
    "body_parts": "body part",
    "brass": "brass instrument",
    "cats": "big cat",
    "christmas": "christmas thing",
    "clothes": "piece of clothing",
    "construction": "construction vehicle",
    "cycle": "vehicle",
    "dishes": "dish",
    "emergency": "emergency vehicle",
    "equines": "hoofed animal",
    "fish": "fish",
    "flight": "aircraft",
    "food": "food",
    "fruit": "fruit",
    "halloween": "stone in a cemetery",
    "hobbies": "thing",
    "household": "thing in a house",
    "masstransit": "vehicle",
    "medical": "medical thing",
    "military": "military thing",
    "naturalforces": "force of nature",
    "people": "person",
    "percussion": "percussion instrument",
    "race": "car",
    "seasonal": "thing",
    "shellfish": "shellfish",
    "space": "thing in space",
    "spices": "spice",
    "sports": "thing for sports",
    "string": "string instrument",
    "town": "thing in a town",
    "vehicles": "vehicle",
    "wind": "wind instrument",
}
# {t} a word for the thing, {a} its article, {k} its kind
_FULL = ("{a} {t}", "{t}", "a photo of {a} {t}", "a picture of {a} {t}", "this is {a} {t}", "{a} {t}, a kind of {k}")
_KIND_ALONE = ("a {k}", "some kind of {k}", "a photo of a {k}")
_OTHER_WORDS = 0.3  # share of captions with a near-synonym, where there is one


class Texts:
    """Captions of the stamps of a world, and of regions without an object (None). See `SceneTexts`.

    Args:
        world: `World`.
    """

    merges = 1400

    def __init__(self, world):
        self.things = world.stamps

    def words(self, stamp):
        """(what its description and name call it, near-synonyms)."""
        own = dict.fromkeys((stamp.phrase, stamp.name or stamp.phrase))
        return tuple(own), (*stamp.aliases, *SYNONYMS.get(stamp.name, ()))

    def clip_caption(self, stamp, rng, partial=0.1):
        """A caption for the contrastive pairs: with probability `partial` of the kind alone."""
        if stamp is None:
            return str(rng.choice(EMPTY))
        if rng.uniform() < partial:
            return _KIND_ALONE[rng.integers(len(_KIND_ALONE))].format(k=kind(stamp.folder))
        return self.answer(stamp, rng)

    def answer(self, stamp, rng):
        """What the captioner should say: a caption that names the thing, in whatever words."""
        if stamp is None:
            return str(rng.choice(EMPTY))
        own, others = self.words(stamp)
        some = others if others and rng.uniform() < _OTHER_WORDS else own
        return _fill(_FULL[rng.integers(len(_FULL))], some[rng.integers(len(some))], stamp)

    def every(self):
        """All texts that can occur, sorted: what the tokenizers are trained on."""
        texts = set(EMPTY) | set(PROMPTS)
        for stamp in self.things:
            own, others = self.words(stamp)
            texts |= {_fill(template, word, stamp) for template in _FULL for word in (*own, *others)}
            texts |= {template.format(k=kind(stamp.folder)) for template in _KIND_ALONE}
        return sorted(texts)

    def says(self, caption, stamp):
        """Whether a caption names the thing, in whatever words of the texts."""
        own, others = self.words(stamp)
        padded = f" {caption.lower().replace(',', ' ').replace('.', ' ')} "
        return any(f" {word} " in padded for word in (*own, *others))


def kind(folder):
    """The word for a thing of a folder of the taxonomy: "bird" for "animals/birds"."""
    last = folder.split("/")[-1]
    return _KINDS.get(last, last.removesuffix("s").replace("_", " "))


def _fill(template, word, stamp):
    article = "an" if word[0] in "aeiou" else "a"
    return template.format(t=word, a=article, k=kind(stamp.folder))
