"""`decodetr train` in the world of base and novel names (fixture `world`), and the rows of its regions."""

from decodetr.cli import main


def region_row(image, embed, box=None):
    return {
        "image_id": image["image_id"],
        "file_name": image["file_name"],
        "box": box or [0.0, 0.0, float(image["width"]), float(image["height"])],
        "proposal_score": 1.0,
        "caption": "a thing",
        "image_embed": embed,
        "text_embed": embed,
        "clip_score": 1.0,
        "kept": True,
    }


def two_steps(world, output, *more):
    """A run of two steps; what `more` says wins."""
    return main([
        "train", "--data", str(world / "data"), "--model", str(world / "model"), "--output_dir", str(output),
        "--max_steps", "2", "--per_device_train_batch_size", "4", "--report_to", "none", "--save_strategy", "no",
        "--val-annotations", "none", "--dataloader_pin_memory", "false", "--disable_tqdm", "true",
        "--eval_pictures", "1", *more,
    ])  # fmt: skip
