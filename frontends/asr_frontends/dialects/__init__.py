"""The clients' dialects: one folder each, with its record, its codec, and its HTTP routes if it has some.

The messages are in `asr_dialects`, which clients use too. `registry` lists the records.
"""
