"""Trainings of a pico model in one process and in two: what tests of several devices compare."""
