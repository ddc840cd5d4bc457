"""The campaign: commands killed, files damaged, odd input, forgeries, races.

Start with `runner.py`: kinds of steps, time, counts. A step is one experiment, and its
name and seed say all of it. `lab.py` is where it is done, `material.py` makes what it
is given, `commands.py` lists every command that writes. The experiments are `kills.py`,
`mutations.py`, `odd_input.py`, `forgeries.py` and `races.py`. `processes.py` runs
commands, `verdicts.py` judges what they did, `contents.py` tells whether two results
are equal. See `python -m tests.campaign --help`.
"""
