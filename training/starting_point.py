"""Where a training run starts: a saved DeCo-DETR, a saved detector, or a config."""

from pathlib import Path


def start(args):
    """Model and image processor of the chosen starting point."""
    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
    from decodetr.processing.shipped import resolve

    if args.reset_semantics and not args.model:
        raise ValueError("--reset-semantics needs --model: the other starting points have no trained semantic stream.")
    fields = _config_fields(args.set)
    if args.model:
        folder = resolve(args.model)
        config = DeCoDetrConfig.from_pretrained(folder)
        config = DeCoDetrConfig.from_dict(config.to_dict() | fields)
        if args.reset_semantics:
            trained = DeCoDetrForObjectDetection.from_pretrained(folder)
            model = DeCoDetrForObjectDetection(config)
            model.detector.load_state_dict(trained.detector.state_dict())
            model.set_pool(trained.prototype_pool, trained.vocabulary)
        else:
            model = DeCoDetrForObjectDetection.from_pretrained(folder, config=config)
        processor = DeCoDetrImageProcessor.from_pretrained(folder)
    elif args.detector:
        if args.pool or args.vocabulary:
            from decodetr import PrototypePool, Vocabulary

            fields["pool"] = PrototypePool.from_pretrained(resolve(args.pool)) if args.pool else None
            fields["vocabulary"] = Vocabulary.from_pretrained(resolve(args.vocabulary)) if args.vocabulary else None
        model = DeCoDetrForObjectDetection.from_detector(args.detector, **fields)
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    else:
        import yaml

        stored = yaml.safe_load(Path(args.config).read_text(encoding="utf-8"))  # JSON is YAML
        if not isinstance(stored, dict):
            raise ValueError(
                f"{args.config} must hold a mapping of DeCoDetrConfig fields, got {type(stored).__name__}."
            )
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**stored | fields))
        processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    if args.image_size:
        processor.size = type(processor)(size={"height": args.image_size, "width": args.image_size}).size
    return model, processor


def _config_fields(words):
    """{field: value} of "FIELD=VALUE" words, values read as YAML."""
    import yaml

    fields = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator:
            raise ValueError(f"--set {word}: expected FIELD=VALUE, such as nms_iou=0.6")
        fields[name] = yaml.safe_load(value)
    return fields
