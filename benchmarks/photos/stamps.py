"""The photographs of Debian's package `tuxpaint-stamps-default`: what each shows, by its own English description.

A stamp is a cut-out (PNG with a transparent background) next to a text file, in a folder of a taxonomy:
animals/birds/pink_flamingo.png and "A pink flamingo.". Drawings among them are left out. A description that is a
short noun phrase gives a name ("flamingo"). Stamps with others are things without a name.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from decodetr.utils.documents import read_text
from decodetr.utils.files import regular_file
from decodetr.utils.images import open_cutout

STAMPS = Path("/usr/share/tuxpaint/stamps")
BACKGROUNDS = Path("/usr/share/tuxpaint/templates")
PACKAGES = "apt-get install -y --no-install-recommends tuxpaint-stamps-default tuxpaint-data"

DRAWING = "thing"  # the name of every picture of `read_drawings`
_DRAWN_FOLDERS = {"cartoon", "toys", "symbols", "flags", "roadsigns", "easter", "hanukkah", "newyears"}
_UNNAMED_FOLDERS = {"medical", "military"}  # things that nobody names
_FLAT_SHARE = 0.5  # a photograph has fewer pixels than that whose left neighbour has the very same colour
_SMALLEST = 40  # pixels of the longer side
_NOVEL_EVERY = 4  # every fourth name of a folder is novel
_BRANCH_EVERY = 6  # every sixth folder of several names is novel as a whole

_STARTS = ("a", "an", "the", "some", "another", "it's a", "it's an")
_NUMBERS = ("two", "three", "four")
# "X of Y" is a Y
_AMOUNTS = "pair bunch head cluster string quarter plant baby slice piece"
# Words after which a description goes on about the thing
_ENDS = (
    "with in at for from of on covered is are lets resembles used called that which who to making eating sitting "
    "like by lying"
)
_ADJECTIVES = set(
    "red green blue yellow white black brown pink purple orange golden silver colorful great little small big large "
    "very old modern old-fashioned happy ripe sleeping sitting open closed sliced lit full male female young baby "
    "freshly huge tough poisonous common sweet wild-caught bolted european indian chinese german american wooden "
    "plastic and folded headed eared albino electric-blue quarter crescent".split()
)
_KINDS = {"flower", "fruit", "plant", "bulb"}  # said after the name: "hibiscus flower"
_PHRASE = re.compile(r"[a-z][a-z' -]*[a-z]")


@dataclass(frozen=True)
class Stamp:
    """One photograph.

    Args:
        path: relative to the stamps' folder, without suffix.
        folder: its branch of the taxonomy, such as "animals/birds".
        phrase: what the description says, without article, such as "pink flamingo".
        name: in short, such as "flamingo". None for a thing without a name.
        aliases: other words that the description has for it, as in "An albino peahen (a female peafowl)".
    """

    path: str
    folder: str
    phrase: str
    name: str | None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """stamps: all that appear; base, novel: names, sorted; branches: folders that are novel as a whole; digest: of the
    photographs and what is known of them."""

    root: Path
    stamps: tuple[Stamp, ...]
    base: tuple[str, ...]
    novel: tuple[str, ...]
    branches: tuple[str, ...]
    digest: str

    @property
    def names(self):
        """All names, sorted: a category's id is its place plus one, in every file."""
        return tuple(sorted((*self.base, *self.novel)))

    def of_name(self, name):
        return [stamp for stamp in self.stamps if stamp.name == name]

    def folder_of(self, name):
        """The folder in which most of a name's stamps lie."""
        folders = [stamp.folder for stamp in self.of_name(name)]
        return max(sorted(set(folders)), key=folders.count)


def read_world(root=STAMPS):
    """The world of an installed package.

    Raises:
        FileNotFoundError: it is not installed. ValueError: too few photographs with descriptions for two splits.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; install the photographs: {PACKAGES}")
    files = {}  # some photographs lie in two folders
    for file in sorted(root.rglob("*.png"), reverse=True):
        if not _is_left_out(root, file):
            files[regular_file(file).read_bytes()] = file
    found = [_read_stamp(root, file) for file in sorted(files.values())]
    stamps = _merge_kinds([stamp for stamp in found if stamp])
    # A thing without a name must not show one: "our moon" where "the full moon" is a moon.
    words = {word for stamp in stamps if stamp.name for word in stamp.name.split()}
    stamps = [stamp for stamp in stamps if stamp.name or not words & set(stamp.phrase.split())]
    names = {stamp.name for stamp in stamps if stamp.name}
    if len(names) < 4:
        raise ValueError(
            f"{root}: expected photographs of at least 4 names, found {len(names)}; reinstall: {PACKAGES}"
        )
    digest = hashlib.sha256()
    for stamp in stamps:
        said = f"{stamp.path} {stamp.phrase} {stamp.name} {stamp.aliases}"
        digest.update(said.encode() + regular_file(root / f"{stamp.path}.png").read_bytes())
    return World(root, tuple(stamps), *_split(stamps), digest.hexdigest())


def read_drawings(root=STAMPS):
    """The pictures of the package that `read_world` leaves out: drawings, symbols, flags. All are a "thing".

    Raises:
        FileNotFoundError: it is not installed.
    """
    world = read_world(root)
    known = {regular_file(world.root / f"{stamp.path}.png").read_bytes() for stamp in world.stamps}
    stamps, digest = [], hashlib.sha256()
    for file in sorted(world.root.rglob("*.png")):
        content = regular_file(file).read_bytes()
        if content in known or file.stem.endswith("_mirror") or not _is_large_enough(open_cutout(file)):
            continue
        relative = file.relative_to(world.root).with_suffix("").as_posix()
        stamps.append(Stamp(relative, str(Path(relative).parent), DRAWING, DRAWING))
        known.add(content)
        digest.update(relative.encode() + content)
    return World(world.root, tuple(stamps), (DRAWING,), (), (), digest.hexdigest())


def load_cutout(root, stamp):
    """A stamp as PIL RGBA, cropped to what can be seen of it."""
    image = open_cutout(Path(root) / f"{stamp.path}.png")
    return image.crop(image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox())


def short_name(description):
    """(phrase, name) of a description in English. (None, None) where it is no short noun phrase.

    "A pair of cherries." -> ("cherries", "cherries"), "A 'Fuji' apple." -> ("apple", "apple"), "A ripe, red tomato!"
    -> ("ripe red tomato", "tomato"), "Eat your broccoli!" -> (None, None).
    """
    text = _plain(description)
    text = re.sub(r"^[a-z]+ (the [a-z ]+)$", r"\1", text)  # "george the blue groper"
    start = next((word for word in sorted(_STARTS, key=len, reverse=True) if text.startswith(word + " ")), "")
    text = text.removeprefix(start).strip()
    number = next((word for word in _NUMBERS if text.startswith(word + " ")), "")
    text = text.removeprefix(number).strip()
    text = re.sub(rf"^(?:[a-z-]+ )?(?:{_AMOUNTS.replace(' ', '|')}) of (?:a |an )?", "", text)
    text = re.split(rf" (?:{_ENDS.replace(' ', '|')})\b", text)[0]
    words = [word for word in text.split() if not word.endswith("'s")]
    phrase = " ".join(words)
    while len(words) > 1 and words[0] in _ADJECTIVES:
        words = words[1:]
    if len(words) > 1 and words[-1] in _KINDS:
        words = words[:-1]
    if (number or start == "some") and words and words[-1].endswith("s") and not words[-1].endswith("ies"):
        words = [*words[:-1], words[-1][:-1]]
    name = " ".join(words)
    if not _PHRASE.fullmatch(name) or len(words) > (3 if start or number else 2):
        return None, None
    if not start and not number and (words[0] in _NO_NOUN or words[-1] in _NO_NOUN):
        return None, None
    return phrase, name


_NO_NOUN = set("this that we with remember eat our your it boom put down enter ahead i you he she they".split())


def _plain(description):
    """The first clause in lower case, without what is in brackets or quotes."""
    text = description.replace("’", "'").strip()
    text = re.sub(r"[(][^)]*[)]", "", text)
    text = re.sub(r"[“\"][^”\"]*[”\"]|(?<= )'[^']*'", "", text)
    text = re.sub(r"\b([a-z]+), (?=[a-z]+ [a-z]+\W*$)", r"\1 ", text)  # "a ripe, red tomato"
    return re.sub(r"\s+", " ", re.split(r"[.!?;:,—–]", text)[0]).strip().lower()


def _aliases(description):
    """What a description has in brackets: "(a lamb)", "(or inuksuk)", "(a female peafowl, or peacock)"."""
    found = []
    for inside in re.findall(r"[(]([^)]*)[)]", description):
        for part in inside.lower().replace("’", "'").split(","):
            part = re.sub(r"^(?:or |a |an |the )+", "", part.strip())
            if _PHRASE.fullmatch(part) and len(part.split()) <= 3:
                found.append(part)
    return tuple(found)


def _is_left_out(root, file):
    parts = file.relative_to(root).parts[:-1]
    return bool(_DRAWN_FOLDERS & set(parts)) or file.stem.endswith("_mirror")


def _read_stamp(root, file):
    """The stamp of a file, or None: no description, too small, or a drawing."""
    text = file.with_suffix(".txt")
    if not text.is_file() or not _is_photograph(open_cutout(file)):
        return None
    lines = read_text(text).splitlines()
    description = lines[0] if lines else ""
    phrase, name = short_name(description)
    relative = file.relative_to(root).with_suffix("")
    if _UNNAMED_FOLDERS & set(relative.parts):
        name = None
    said = phrase or re.sub(r"[^a-z]+", " ", relative.name.lower()).strip()  # the file's name says what it is
    return Stamp(relative.as_posix(), relative.parent.as_posix(), said, name, _aliases(description) if name else ())


def _is_photograph(image):
    """Whether a cut-out is large enough, and not made of flat areas as drawings are."""
    if not _is_large_enough(image):
        return False
    pixels = np.asarray(image).astype(np.int16)
    pairs = _opaque_pairs(pixels)
    same = (pixels[:, 1:, :3] == pixels[:, :-1, :3]).all(-1)
    return same[pairs].mean() < _FLAT_SHARE


def _is_large_enough(image):
    return max(image.size) >= _SMALLEST and _opaque_pairs(np.asarray(image)).sum() >= 200


def _opaque_pairs(pixels):
    """(H, W - 1): a pixel and its right neighbour are opaque."""
    opaque = pixels[..., 3] > 250
    return opaque[:, 1:] & opaque[:, :-1]


def _merge_kinds(stamps):
    """Names of kinds in short: "sumatran tiger" is a "tiger" where its folder, or one above or below, has a tiger."""
    known = defaultdict(set)
    for stamp in stamps:
        known[stamp.name].add(stamp.folder)
    merged = []
    for stamp in stamps:
        words = (stamp.name or "").split()
        shorter = (" ".join(words[start:]) for start in range(len(words) - 1, 0, -1))
        name = next((short for short in shorter if any(_above(f, stamp.folder) for f in known[short])), stamp.name)
        aliases = tuple(alias for alias in stamp.aliases if alias not in known)
        merged.append(replace(stamp, name=name, aliases=aliases))
    return merged


def _above(one, other):
    """Whether one of two folders is in the other, or the same."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _split(stamps):
    """(base names, novel names, novel branches).

    Of the folders with several names every sixth is novel as a whole, where its part of the taxonomy has others. In
    each other folder every fourth name is novel, so that a novel name has base names in its folder.
    """
    world = World(Path(), tuple(stamps), (), (), (), "")
    folders = defaultdict(list)
    for name in sorted({stamp.name for stamp in stamps if stamp.name}):
        folders[world.folder_of(name)].append(name)
    top = defaultdict(set)
    for folder in folders:
        top[folder.split("/")[0]].add(folder)
    several = [f for f in sorted(folders) if 2 <= len(folders[f]) <= 12 and len(top[f.split("/")[0]]) > 1]
    branches = several[_BRANCH_EVERY // 2 :: _BRANCH_EVERY]
    novel = [name for folder in branches for name in folders[folder]]
    for folder in sorted(set(folders) - set(branches)):
        novel += folders[folder][1::_NOVEL_EVERY]
    base = {name for names in folders.values() for name in names} - set(novel)
    return tuple(sorted(base)), tuple(sorted(novel)), tuple(branches)
