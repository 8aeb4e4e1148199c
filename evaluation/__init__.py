"""Scoring, judging, statistics and the report. Reads artifacts; importable without torch."""
