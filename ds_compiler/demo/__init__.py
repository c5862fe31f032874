"""What `dsc demo` shows: real jobs around a compiled model.

In: a picture, and functions that run the models (any engine). Out: what a person can judge by eye.
Start with `ocr.read_page`.
"""
