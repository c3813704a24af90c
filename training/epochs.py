"""The number of the epoch, which order and augmentation of images depend on."""


def set_epoch(dataloader, epoch):
    """Tell the data set and all samplers of a prepared loader which epoch begins.

    Accelerate's own `set_epoch` leaves some out: the data set if batches are divided between processes or a resumed
    run skips some of them, and the shuffling sampler if both.
    """
    if hasattr(dataloader.dataset, "set_epoch"):
        dataloader.dataset.set_epoch(epoch)
    sampler = dataloader.batch_sampler
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        inner = getattr(sampler, "batch_sampler", None)
        sampler = inner if inner is not None else getattr(sampler, "sampler", None)
