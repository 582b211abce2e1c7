"""
Other programs that do what the engine does, measured by the same harness on the same log.

The idea: a peer gets the source, the target and the workload that the engine has just had, is given
every advantage that its makers offer, and its result is checked by the same sums. One that cannot
run is named with the reason. Its module tells how it is set up; a program of ours that it needs
lies in ``benchmarks/peers``, to be read.
"""
