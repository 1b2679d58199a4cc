"""The programs of the documentation are run here as they stand.

- Every ```python block of a page or of the README is a complete program.
- A ```text block that directly follows is exactly what the program prints.
- A program without one that makes an `app` is served; any other prints nothing.
- A part that cannot run is a {code-block} of the class `fragment`.
"""
