# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The lab: real kernels, booted under emulation, in states that the kernel itself made.

``matrix`` names the kernels, ``kernels`` fetches them, ``workload`` builds the program that is pid 1 in the guest,
``guest`` boots and dumps it, ``dumps`` and ``big`` keep the results, ``lab`` is the command. Nothing here imports
``drgn_thp``: a lab that shared code with what it tests could not contradict it.
"""
