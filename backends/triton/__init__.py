"""Fused modules as Triton kernels: readable source, ahead-of-time code, and the plan to launch them.

In: a fused module (`passes.fuse`). Out: one Python file a kernel, and a `Program` that says which run, with what.
Read: `kernels` (fusion -> sources), `loops` and `dot` (the schedules), `body` (nodes as block expressions),
`scalars` (one element), `program` (the whole), `compile` (PTX and cubin without a GPU).
Only `library` and `compile` import Triton, so that sources can be made without it.
"""
