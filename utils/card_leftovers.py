"""What must not stand in a published card: the rule that travels to the Hub with the model."""

from decodetr.utils.model_room import load

__all__ = ["ON_THIS_MACHINE", "card_leftovers", "check_card"]

_rule = load("card_leftovers")
ON_THIS_MACHINE = _rule.ON_THIS_MACHINE  # what a snippet says of a model that is not on the Hub
card_leftovers, check_card = _rule.card_leftovers, _rule.check_card
