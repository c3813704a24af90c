"""A saved DeCo-DETR of random weights, so small that a command runs in a second: for the tests of commands."""


def save_tiny_detector(folder, names=("cat", "dog", "salt, pepper")):
    """Write model and image processor (64 x 64 pixels, 10 queries, d = 8) and return the folder."""
    import torch
    from transformers import RTDetrResNetConfig, RTDetrV2Config

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor

    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    detector = RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[8, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=10,
        num_denoising=0,
        num_labels=1,
    )
    config = DeCoDetrConfig(
        detector_config=detector,
        embedding_dim=8,
        num_coarse_prototypes=4,
        num_fine_prototypes=8,
        id2label=dict(enumerate(names)),
    )
    DeCoDetrForObjectDetection(config).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
