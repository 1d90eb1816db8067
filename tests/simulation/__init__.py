"""Whole lives of the daemon in one process, each drawn by a seed and the same whenever it is played.

A life runs the product's own actors, engine and storage layout, over a store and files that lose what wasn't
synced when the power goes (`disk`). Clients write, read and ask again (`clients`) while disks fail, actors crash
and clocks jump; the power goes at any point, also within a commit or while the daemon starts. After each start
all that is there is compared with what was acknowledged (`checker`).

    python -m tests.simulation --seeds 0:10000     many lives, on all cores
    python -m tests.simulation --seed 17           one, with its history
    python -m tests.simulation --bug half-a-batch  with a bug planted, which has to be found

What is drawn and what isn't: trio's scheduler, the pauses before each message and around each piece of work, ids,
both clocks, faults and clients come from the seed (`world`). Work off the loop is done inline. tantivy's index
lies in memory, where its threads can't be seen. Not simulated: LMDB, for which tests/faults fails system
calls, and HTTP.
"""
