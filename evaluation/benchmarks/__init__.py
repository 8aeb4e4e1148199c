"""One file per benchmark, each with a `score` function: items and completions in, one row per prompt out."""
