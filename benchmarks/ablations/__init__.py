"""What each part of the method is worth: rows that train a semantic stream, and the page that is written of them.

rows.py         the rows, the questions that they answer, the claims of the paper; data alone
runs.py         a world and its runs
setups.py       other numbers of queries, other texts for names, what training may know; both streams trained
some_queries.py cached features of which a step reads a part
beginnings.py   changes to a new model: its lookup, its targets (targets.py), its calibration
extension.py    changes to a trained model: its pool grows
conflict_trainer.py  the trainer of both streams, which compares the gradients of their losses
verdicts.py     what mean and spread of the runs say; pure functions
page.py         docs/ablations.md and its pictures
goals.py        of the page, what the whole method reaches
conflict.py     of the page, what the gradients' curves say
"""
