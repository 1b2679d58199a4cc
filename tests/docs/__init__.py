"""The programs of the documentation are run here as they stand.

- Every ```python block of a page or of the README is a complete program.
- A ```text block that directly follows is exactly what the program prints.
- Without one, a program that makes an `app` is served, one with functions `test_...` is run by pytest, and any other
  prints nothing.
- A part that cannot run is a {code-block} of the class `fragment`.
"""
