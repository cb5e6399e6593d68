"""The command line: `python -m service serve | predict | compare | evaluate | models`."""
