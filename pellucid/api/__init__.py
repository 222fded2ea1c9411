"""The Python API: a function for each command that works on a study; `pellucid` exports them.

A study is given as its path (with `key=value` overrides of study.yaml) or as the `Study` that `load_study` returns.
Each function finds the runs that it needs and returns the run that it made; a finished run is reused. Heavy libraries
are imported inside the functions, so that `pellucid scan` need not wait for torch.
"""
