"""Cards (README.md) of models, pools, vocabularies and exported files, filled from what their folders hold.

The templates are in hub_cards/templates/. `render.py` fills them, `sections.py` renews a card and keeps what a person
wrote, `model_facts.py` and `other_facts.py` gather what they say, `results.py` reads reports.
"""
