"""Seeded worlds: a volume, its machine and its storage, driven by random programs and crashed at random moments.

Purpose: to prove that nothing acknowledged is ever lost. One seed is one world: everything that happens in it, every
interleaving included, is drawn from that seed, so a failure is repeated by its number:

    python -m tests.support.world --start SEED --seeds 1

`run` plays one world; `life` opens the volume and crashes it; `program` is what its users do; `look` sees what a volume
shows; `model` is what its users may rely on and how that is checked; `disk` is what a power cut leaves; `storage` is
what stands between the volume and its objects.
"""
