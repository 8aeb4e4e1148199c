"""The SafeMERGE experiment: `python -m pipeline`. Read `pipeline/__main__.py` first."""
