"""The names of a run: those it is trained on, and those that the saved model has."""

from typing import TYPE_CHECKING

from decodetr.inference.names import choose_names
from decodetr.modeling_decodetr import Vocabulary
from decodetr.utils.hub import local_only, recorded_place
from decodetr.utils.shipped import cannot_load, load_vocabulary, resolve
from decodetr.utils.spelling import spelled_as

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.training.data.data import TrainingData
    from decodetr.training.options.options import TrainOptions


def set_names(
    model: "DeCoDetrForObjectDetection", options: "TrainOptions", data: "TrainingData", *, unused: bool = False
) -> Vocabulary:
    """Give the model its training names. Returns the deployment Vocabulary.

    Names that the model's vocabulary lacks are embedded by the text model that made it, so that one command goes from
    new data to a trained model. The names that it had stay. Training names are those of the training annotations,
    where the setting allows them the novel names too, and in a fine-tune every name of the vocabulary
    (docs/finetune.md has the measurement).

    Args:
        model (DeCoDetrForObjectDetection): after pool and vocabulary were set.
        options (TrainOptions). data (TrainingData).
        unused (bool): no stream is trained that reads embeddings. Where nothing can make them, they are random.

    Raises:
        ValueError: names without an embedding that cannot be embedded.
    """
    annotated = data.coco.names
    written = [*(annotated or ()), *(data.novel or ()), *(data.val.names if data.val is not None else ())]
    known = _spelled_as(model.vocabulary, written)
    wanted = list(annotated or ())  # a stream of texts does not say which there are
    if data.novel and data.setting.novel_names:
        wanted += [name for name in data.novel if name not in wanted]
    source = options.text_model or (model.config.pool_info or {}).get("encoder")
    asked_by = None if options.text_model else f"the pool says that it was made with it; --clip {source} fetches it"
    if source and wanted and not options.vocabulary and not known.info:
        try:  # a starting point without name embeddings: all of them are new
            with local_only(resolve(source), asked_by):
                known = Vocabulary.from_text_model(wanted, resolve(source), progress=True)
        except OSError as error:
            raise cannot_load("text model", source, error) from error
        known.info["encoder"] = recorded_place(source)
    elif unused and wanted and not (options.vocabulary or known.info):
        evaluated = data.val.names if data.val is not None else ()
        known = Vocabulary.random(list(dict.fromkeys([*wanted, *evaluated])), known.embedding_dim)
    if set(wanted) - set(known.names):
        known = choose_names(known, list(dict.fromkeys([*known.names, *wanted])), options.text_model)
    if options.training_names == "all" or (options.training_names is None and options.goes_on and not data.novel):
        wanted = known.names
    deployed = known
    if options.deploy_vocabulary:
        deployed = _spelled_as(load_vocabulary(options.deploy_vocabulary), written)
    model.set_vocabulary(known.select(wanted) if wanted else known)
    return deployed


def _spelled_as(vocabulary, written):
    """A vocabulary whose names are spelled as in the data, where they look equal."""
    names = spelled_as(vocabulary.names, written)
    return vocabulary if names == vocabulary.names else Vocabulary(names, vocabulary.embeddings, vocabulary.info)
