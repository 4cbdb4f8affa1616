"""Misuses and their messages: tables in `building.py` and `arriving.py`, what they must say in `test_misuse.py`."""
