"""Cards (README.md) of models, pools, vocabularies and exported files, filled from what their folders hold.

The templates are in hub_cards/templates/. `render.py` fills them, `sections.py` renews a card and keeps what a person
wrote, `model_card.py` and `renewal.py` gather what they say, `results.py` reads reports, `cost.py` counts what
building took.
"""
