"""Fuzzing of the parsers of foreign bytes in a child process: `python -m tests.fuzz TARGET SECONDS FOLDER`."""
