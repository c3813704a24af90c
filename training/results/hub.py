"""What the Trainer sends to the Hub: the model with decodetr's card, checked as `decodetr push` checks it. No run ends
because of it: what could not be sent is said, and lies in the output folder."""

import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from decodetr.cards.model_card import License
from decodetr.cards.renewal import CARD, CardOptions, card_of
from decodetr.modeling_decodetr.hub_push import tagged
from decodetr.modeling_decodetr.hub_repository import check_kind, upload
from decodetr.publishing.contents import needed
from decodetr.publishing.push import Pushed, push
from decodetr.training.results import checkpoints
from decodetr.training.results.output import ARGUMENTS
from decodetr.utils.card_leftovers import check_card
from decodetr.utils.files import write_text

if TYPE_CHECKING:
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

_STAGED = ".decodetr.push-"  # and the step: folders in the output with what is being sent
_NOT_YET = "Not sent to the Hub: %s\nThe run goes on; the next checkpoint, and the model at its end, are sent again"
_SENDER = ThreadPoolExecutor(1)  # checkpoints are sent in their order
logger = logging.getLogger(__name__)


class PushingTrainer(Trainer):
    """`transformers.Trainer`, whose pushes to the Hub have decodetr's card."""

    args: "DeCoDetrTrainingArguments"
    _card_sent = False

    def send(self, message: str) -> None:
        """With `push_to_hub`, send what the output folder has. All processes call it. A warning says what could not be
        sent, and why."""
        if not self.args.push_to_hub:
            return
        try:
            self.push_to_hub(message)
        except (OSError, ValueError) as error:
            self._not_sent(error)

    def push_to_hub(  # type: ignore[override]  # the library takes more, for its own card
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
    ) -> "Pushed | Future[Pushed] | None":
        """Save the model and send it with its card, as `decodetr push OUTPUT REPOSITORY` does: no pickles, no states.

        Args:
            commit_message, token, revision, private: as of the library's. blocking (bool): wait until it is there.
            license (str, *optional*): of the weights, in the Hub's spelling. Default: `hub_license`.
            tags (*optional*): more of them for the card.

        Returns:
            Pushed, a future of it, or None: another process sends it.

        Raises:
            ValueError: the card has leftovers, or no license. OSError: from the Hub. The model is saved then.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(license=license, tags=tags)
        self._finish_current_push()
        pushed = partial(
            push,
            str(self.args.output_dir),
            self.hub_model_id,
            private=private,
            revision=revision or self.args.hub_revision,
            message=commit_message,
            token=token or self.args.hub_token,
        )
        return pushed() if blocking else HfApi().run_as_future(pushed)

    def create_model_card(  # type: ignore[override]  # as above
        self, license: str | None = None, tags: str | list[str] | None = None, model_name: str | None = None
    ) -> None:
        """Write or renew README.md of the output folder, which has a saved model: the card of `decodetr card`.

        Args: as of [`push_to_hub`]. model_name (str, *optional*): OWNER/NAME for its snippets. Default: the
            repository.
        """
        if self.is_world_process_zero():
            card = Path(self.args.output_dir, CARD)
            text = self._card_of(str(self.args.output_dir), license, model_name, str(card))
            more = [tags] if isinstance(tags, str) else tags or []
            write_text(card, tagged(text, [*(getattr(self.model, "model_tags", None) or []), *more]))

    def _card_of(self, source, license=None, name=None, old=None):
        stated = License(id=license or self.args.hub_license)
        return card_of(CardOptions(source=source, name=name or self.hub_model_id, license=stated, old=old))[0]

    def _push_from_checkpoint(self, checkpoint_folder):
        """Send the newest checkpoint while the run goes on: its model, as `decodetr push` sends one, the whole of it
        where `hub_strategy` says so, and, once, a card that says what the model is so far. It does not lie in the
        output folder, where a card says that the run is finished."""
        args, strategy = self.args, self.args.hub_strategy
        if strategy == HubStrategy.END or not self.is_world_process_zero():
            return
        pushing = self.push_in_progress
        if pushing is not None and not pushing.is_done() and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        checkpoint, staged = Path(checkpoint_folder), Path(args.output_dir, f"{_STAGED}{self.state.global_step}")
        below = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}.get(strategy)
        try:
            if pushing is None:  # nothing is under way: left by a run that was killed
                for left in Path(args.output_dir).glob(f"{_STAGED}*"):
                    shutil.rmtree(left, ignore_errors=True)
            _stage(checkpoint, staged, below)
            if not self._card_sent:
                text = self._card_of(str(checkpoint))
                check_card(text, f"the card of {self.hub_model_id}")
                write_text(staged / CARD, text)
        except (OSError, ValueError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            logger.warning(_NOT_YET, error)
            return
        in_steps = args.save_strategy == SaveStrategy.STEPS
        where = f"step {self.state.global_step}" if in_steps else f"epoch {int(self.state.epoch)}"
        job = _SENDER.submit(self._send_staged, staged, below, f"Training in progress, {where}")
        jobs = [] if pushing is None or pushing.is_done() else pushing.jobs
        self.push_in_progress = PushInProgress([*jobs, job])

    def _send_staged(self, staged, below, message):
        """In another thread, one after the other."""

        def replaced(there: set[str]) -> set[str]:
            check_kind(there, "model", self.hub_model_id)
            return {name for name in there if needed(name, "model") or (below and name.startswith(f"{below}/"))}

        args = self.args
        try:
            upload(
                staged,
                self.hub_model_id,
                message,
                private=args.hub_private_repo,
                token=args.hub_token,
                revision=args.hub_revision,
                replaced=replaced,
            )
            self._card_sent = True
        except Exception as error:  # which nobody else would see in this thread
            logger.warning(_NOT_YET, error)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _not_sent(self, error):
        logger.warning(
            "Not sent to the Hub: %s\nThe model is in %s; once that is mended, `decodetr push %s %s` sends it",
            error,
            *(self.args.output_dir, self.args.output_dir, self.hub_model_id),
        )


def _stage(checkpoint, staged, below):
    """Put together what goes to the Hub of a checkpoint, which may be removed before all of it is there.

    Args:
        checkpoint (Path). staged (Path): folder to make. below (str or None): the folder in it for the whole
            checkpoint, without the pickled arguments, which nobody reads: a run that goes on has its own.
    """
    staged.mkdir()
    for file in checkpoint.iterdir():
        if needed(file.name, "model"):
            _link(file, staged / file.name)
    if below is not None:
        left_out = shutil.ignore_patterns(ARGUMENTS, checkpoints.MARK, ".*")
        shutil.copytree(checkpoint, staged / below, ignore=left_out, copy_function=_link)
        if (checkpoint / checkpoints.MARK).is_file():
            checkpoints.mark(staged / below)  # of the files that are sent, else it would not be complete there


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
