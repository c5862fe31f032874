"""Programs on a GPU: what a compiled one is made of (`plan`), and how it runs.

In: kernels as Triton source and machine code, and the order to launch them in. Out: a callable.
Nothing here imports Triton; the driver is loaded when a program is first called.
"""
