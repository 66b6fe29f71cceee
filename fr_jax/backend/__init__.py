"""Devices: the mesh, compiler options for CPUs, implementations of convolution."""
