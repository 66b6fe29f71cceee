"""Devices: the mesh, the CPU's compiler options, forms of the convolution."""
