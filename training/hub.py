"""What the Trainer sends to the Hub: the model with decodetr's card, checked as `decodetr push` checks it. No run ends
because of it: what could not be sent is said, and lies in the output folder."""

import logging
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from decodetr.cards.model_card import License
from decodetr.cards.renewal import CARD, CardOptions, card_of
from decodetr.modeling_decodetr.hub_push import tagged
from decodetr.modeling_decodetr.hub_repository import check_kind, hub_errors
from decodetr.publishing.push import Pushed, push
from decodetr.utils.card_leftovers import check_card
from decodetr.utils.files import write_text

if TYPE_CHECKING:
    from decodetr.training.arguments import DeCoDetrTrainingArguments

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
        """Send the newest checkpoint, and before the first one a card that says what the model is so far. It does not
        lie in the output folder, where a card says that the run is finished."""
        if self.args.hub_strategy == HubStrategy.END or not self.is_world_process_zero():
            return
        try:
            if not self._card_sent:
                text, branch, token = (
                    self._card_of(str(checkpoint_folder)),
                    self.args.hub_revision,
                    self.args.hub_token,
                )
                check_card(text, f"the card of {self.hub_model_id}")
                api = HfApi(token=token)
                with hub_errors(self.hub_model_id, writes=True):
                    check_kind(api.list_repo_files(self.hub_model_id, revision=branch), "model", self.hub_model_id)
                    api.upload_file(
                        path_or_fileobj=text.encode(),
                        path_in_repo=CARD,
                        repo_id=self.hub_model_id,
                        revision=branch,
                        commit_message="Training begins",
                    )
                self._card_sent = True
            super()._push_from_checkpoint(checkpoint_folder)
        except (OSError, ValueError) as error:
            self._not_sent(error)

    def _not_sent(self, error):
        logger.warning(
            "Not sent to the Hub: %s\nThe model is in %s; once that is mended, `decodetr push %s %s` sends it",
            error,
            *(self.args.output_dir, self.args.output_dir, self.hub_model_id),
        )
