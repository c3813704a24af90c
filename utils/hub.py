"""Who may ask the Hub: a name that the user typed, never one that stands in a file. The rule itself travels with the
model, which embeds names too: `modeling_decodetr/hub_rule.py`."""

from decodetr.utils.model_room import load

__all__ = ["local_only", "recorded_place"]

_rule = load("hub_rule")
local_only, recorded_place = _rule.local_only, _rule.recorded_place
