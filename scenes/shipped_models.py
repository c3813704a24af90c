"""Make everything in hub_cards/ again, by commands that a user could type.

Small CLIP and LLaVA, name embeddings, localization stream and pool, twice, semantic stream, measurements. Then the
folders of hub_cards/, with weights in half precision and with cards that say how each was made and what was measured.
It takes hours on two cores. An interrupted run goes on where it stopped. For a checkout: it writes into the package.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cards.model_card import License, ModelFacts, model_card
from decodetr.cards.renewal import pool_card, vocabulary_card
from decodetr.cards.results import results_of
from decodetr.scenes.command_runner import claim, flat, run_stages
from decodetr.scenes.measure import measured_table
from decodetr.scenes.recipes import (
    DEFAULTS_THEN,
    KEPT_REGIONS,
    LOCALIZATION,
    POOL,
    PSEUDO_BOX_SCORE,
    SEMANTIC,
    SHIFTS,
    TRAIN_SCENES,
)
from decodetr.utils.documents import read_json
from decodetr.utils.files import claim as hold
from decodetr.utils.files import committed, write_json, write_text
from decodetr.utils.markup import code_block
from decodetr.utils.shipped import HUB_CARDS

TEACHERS, STAGES = ("scenes-clip", "scenes-llava"), 10
CONFIG = HUB_CARDS / "scenes-decodetr" / "training_config.yaml"


def make_models(folder: str, run_command: Callable[[list[str]], int]) -> int:
    """Run all stages in `folder` and write the folders of hub_cards/. `run_command`: see [`run_stages`]. Returns the
    exit status."""
    work = Path(folder)
    with hold(work, "decodetr scenes models"):
        record = claim(work, {"made by": "decodetr scenes models"})
        status, commands = run_stages(work, _stages(work), STAGES, record, run_command)
        if status == 0:
            shown = [command.replace(f"{work}/", "").replace(f"{HUB_CARDS}/", "") for command in commands]
            _write_cards(work, shown)
        return status


def _stages(folder):
    """(file that tells that a stage is finished, its command), in order. What is made is shipped before the next
    command, so that what the cards say was measured on the weights in their folder."""
    data, teachers, names = folder / "scenes", folder / "teachers", folder / "scenes-vocabulary"
    yield data / "names.json", ["scenes", "write", data, "--train", TRAIN_SCENES]
    yield teachers / TEACHERS[-1] / "README.md", ["scenes", "teachers", teachers]
    for name in TEACHERS:
        with committed(HUB_CARDS / name) as staging:
            shutil.copytree(teachers / name, staging, dirs_exist_ok=True)
    clip, llava = TEACHERS
    embed = {"--names-split": data / "names.json", "--clip": clip, "--output": names}
    yield names / "vocabulary.json", ["vocabulary", "build", *flat(embed)]
    model, localized, built = folder / "model", None, None
    for cycle, (rate, warmup, steps) in enumerate(LOCALIZATION, start=1):
        start = {"--config": CONFIG}
        if localized:
            pseudo = {"--regions": built / "regions", "--pseudo-box-score": PSEUDO_BOX_SCORE}
            start = {"--model": localized, "--seed": cycle - 1, **pseudo, **SHIFTS}
        localized, built = folder / f"localized-{cycle}", folder / f"built-{cycle}"
        localization = {
            "--streams": "localization",
            "--data": data,
            **start,
            "--vocabulary": names,
            "--max_steps": steps,
            "--learning_rate": rate,
            "--warmup_steps": warmup,
            "--lr_scheduler_type": "cosine",
            "--per_device_train_batch_size": 16,
            "--report_to": "none",
            "--dataloader_pin_memory": "false",
            "--val-annotations": "none",
            "--output_dir": localized,
        }
        yield localized / "train_results.json", ["train", *flat(localization)]
        teach = {"--data": data, "--detector": localized, "--clip": clip, "--captioner": llava, **POOL}
        build = ["pool", "build", *flat(teach), "--output", built]
        yield built / "pool" / "pool.json", build
    tables = {"--vocabulary": names, "--pool": built / "pool", "--regions": built / "regions"}
    semantic = {"--model": localized, "--data": data, **tables, **SEMANTIC, **KEPT_REGIONS, "--output_dir": model}
    yield model / "train_results.json", ["train", "--reset-semantics", "--set", *DEFAULTS_THEN, *flat(semantic)]
    _ship(folder, built)
    for split in ("val", "test"):
        measured = folder / f"measured-{split}.json"
        measure = {"--model": "scenes-decodetr", "--clip": clip, "--split": split, "--output": measured}
        yield measured, ["scenes", "measure", data, *flat(measure)]


def _ship(folder, built):
    """Model, pool and vocabulary into hub_cards/. `built` is the output of `pool build`."""
    tables = {"scenes-vocabulary": Vocabulary.from_pretrained(folder / "scenes-vocabulary")}
    tables["scenes-pool"] = PrototypePool.from_pretrained(built / "pool")
    for name, table in tables.items():
        with committed(HUB_CARDS / name) as staging:
            table.save_pretrained(staging)
    model = DeCoDetrForObjectDetection.from_pretrained(folder / "model")
    # Half the size. They load as float32, as the config says. The tables stay exact.
    weights = model.state_dict()
    for name, value in weights.items():
        if value.is_floating_point() and not name.startswith(("prototype_pool", "vocabulary")):
            weights[name] = value.half()
    image_processor = DeCoDetrImageProcessor.from_pretrained(folder / "model")
    with committed(HUB_CARDS / "scenes-decodetr") as staging:
        model.save_pretrained(staging, state_dict=weights)
        image_processor.save_pretrained(staging)
        _without_code(staging)


def _write_cards(folder, commands):
    """README.md of the folders that `_ship` wrote."""
    pool = PrototypePool.from_pretrained(HUB_CARDS / "scenes-pool")
    vocabulary = Vocabulary.from_pretrained(HUB_CARDS / "scenes-vocabulary")
    model = DeCoDetrForObjectDetection.from_pretrained(HUB_CARDS / "scenes-decodetr")
    measured = {split: read_json(folder / f"measured-{split}.json", dict) for split in ("val", "test")}
    for name, text in _cards(pool, vocabulary, model, measured, commands).items():
        write_text(HUB_CARDS / name / "README.md", text)


def _without_code(staging):
    """The package itself is the code of a shipped model: no copies of it next to the weights."""
    for file in staging.glob("*.py"):
        file.unlink()
    for file in (staging / "config.json", staging / "preprocessor_config.json"):
        content = read_json(file, dict)
        for entry in ("auto_map", "custom_pipelines"):
            content.pop(entry, None)
        write_json(file, dict(sorted(content.items())), indent=2)


def _cards(pool, vocabulary, model, measured, commands):
    """README.md of the three folders, by the templates of all cards."""
    license = License(id="apache-2.0")
    made = "`decodetr scenes models DIR` runs, in DIR:\n\n" + code_block("\n".join(commands))
    base = len(model.config.training_info["training_names"])
    details, results = [], []
    for words, (split, values) in zip(("Validation scenes", "The shifted split"), measured.items()):
        novel, other = (f"{values['ceiling'][f'recall_{group}']:.1f} %" for group in ("novel", "base"))
        details += [f"{words}; localization finds {novel} of the novel and {other} of the base objects:", ""]
        details += [measured_table(**values)]
        found = {key: values["measured"][f"{key}, all"] for key in ("AP50_novel", "AP50_base", "AP50")}
        facts = {"names": len(vocabulary), "measured_by": "decodetr scenes measure"}
        results += results_of(found, f"scenes/annotations/{split}.json", "scenes", facts, split)
    purpose = (
        "It is the small one that travels with decodetr, for tests and for trying the commands. It knows the drawn "
        "world (colour x pattern x shape), and nothing of the real one."
    )
    said = {"license": license, "purpose": purpose, "made": made}
    return {
        "scenes-decodetr": model_card(
            ModelFacts(
                config=model.config,
                image_size=dict(DeCoDetrImageProcessor.from_pretrained(HUB_CARDS / "scenes-decodetr").size),
                folder=HUB_CARDS / "scenes-decodetr",
                name="scenes-decodetr",
                title="DeCo-DETR of the drawn scenes",
                results=results,
                details="\n".join(details).strip(),
                **{
                    **said,
                    "purpose": f"{purpose} Boxes of {base} base names trained it, and what it proposed itself beside "
                    "them, as objects without a name; the other names never had a box. Their meaning comes from "
                    "captions of scenes-llava and embeddings of scenes-clip, which have seen all names, as the real "
                    "ones have seen the web.",
                },
            )
        ),
        "scenes-pool": pool_card(pool, "Prototype pool of the drawn scenes", "scenes-pool", **said),
        "scenes-vocabulary": vocabulary_card(vocabulary, "Names of the drawn scenes", "scenes-vocabulary", **said),
    }
