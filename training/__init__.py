"""What training needs beside `DeCoDetrTrainer` (train.py): its arguments, callbacks, starting points and command.

A room of its own, because train.py would have grown beyond reading; what trains stays there.
"""
