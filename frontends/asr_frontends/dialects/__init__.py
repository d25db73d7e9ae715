"""The clients' dialects: one folder each, with its record and its codec, and its HTTP routes where it has some.

The messages are in `asr_dialects`, which clients read too; `registry` lists the records.
"""
