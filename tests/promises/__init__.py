"""What is promised of faults, put to the test over whole runs: `make faults`, in short in `tests/unit/test_promises.py`."""
