"""What a training run chooses itself, and what it will take.

choices.py, chosen.py   length, rates, batch and views where nobody says them; and as fields of the run
plan.py, step_cost.py   `--plan`: hours, memory and disk; what one step costs
trial.py                one small step, and room on the disk, before a long run
memory.py               what to change when memory runs out
"""
