"""What is checked before `decodetr pool build`, or one of its stages, reads images or loads a model."""

from functools import partial
from pathlib import Path

from decodetr.annotations.sources import kind_of
from decodetr.utils.files import output_folder
from decodetr.utils.preflight import require_package, require_room, run_checks, written
from decodetr.utils.shipped import WEIGHTS, expect, expect_file

_NOT_ON_DISK = ("grid", "torchvision:")


def check(args, settings):
    """Check the arguments of a stage or of `build`; each has its own, so others may be missing.

    Args:
        args: of the command. settings ([`PoolSettings`]): of them.

    Raises:
        ValueError, OSError: what does not go together or is not there; several problems as one ValueError.
    """
    checks = [partial(output_folder, args.output, "--output")]
    if hasattr(args, "data"):
        checks.append(partial(_check_data, args))
    if isinstance(captions := getattr(args, "image_captions", None), str):
        checks.append(partial(expect_file, "--image-captions", captions))
    for option in ("detector", "clip", "captioner"):
        name = getattr(args, option, None)
        if name is not None and not name.startswith(_NOT_ON_DISK) and "@http" not in name:
            what = "CLIP" if option == "clip" else option
            checks += [partial(expect, what, name, "config.json"), partial(expect, what, name, *WEIGHTS)]
    if "@http" in (getattr(args, "captioner", None) or ""):
        checks.append(partial(_check_server, args, settings))
    elif settings.captioner_bits:
        what = f"--captioner-bits {settings.captioner_bits}"
        checks.append(partial(require_package, "bitsandbytes", what, "'decodetr[quantized]'"))
    if settings.kmeans == "faiss":
        checks.append(partial(require_package, "faiss", "--kmeans faiss", "'decodetr[faiss]'"))
    run_checks(*checks)


def check_room(coco, width, output):
    """Check that the disk has room for what `build` writes of annotated boxes alone: three embeddings of each, of
    float16.

    Args:
        coco (CocoAnnotations). width (int): d of the CLIP. output (Path): OUT.

    Raises:
        ValueError: it has not; with the numbers.
    """
    boxes = len(coco.annotations_by_image.column("id", crowds=False))
    needed = 3 * 2 * width * boxes - written(output)
    require_room(output, needed, f"the embeddings of {boxes:,} annotated boxes", "choose another --output")


def _check_data(args):
    from decodetr.annotations.names_split import names_split_file

    if args.annotations is None:
        kind_of(args.data)
    expect_file("--annotations", args.annotations)
    if args.images is not None and not Path(args.images).is_dir():
        raise FileNotFoundError(f"--images {args.images}: no such folder")
    names_split_file(args.data, args.names_split)


def _check_server(args, settings):
    """A server of captions is asked once; what it costs is one caption of a grey square."""
    from PIL import Image

    from decodetr.pool_builder.served_captioner import ServedCaptioner

    if settings.captioner_bits or settings.captioner_dtype != "auto" or args.device_map:
        raise ValueError(
            "--captioner-bits, --captioner-dtype and --device-map are the server's business, which "
            f"{args.captioner} names; leave them out"
        )
    captioner = ServedCaptioner(args.captioner, **settings.of("prompt", "max_new_tokens"))
    captioner.describe([Image.new("RGB", (64, 64), (127, 127, 127))])
