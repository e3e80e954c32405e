"""What a causal language model is good for besides its own loss: proxies that need no download, and the benchmarks.

The proxies (`proxies`) are made from the source of the installed Python: last words, linear probes, fine-tuning. The
benchmarks of the EST paper (`glue`, `squad`, `harness`) need their data.
"""
