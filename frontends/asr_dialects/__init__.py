"""The messages of every dialect, written once: paths, names of types and fields, both directions. Pure.

The codecs (`asr_frontends.dialects`), the test client (`asr_client.dialects`) and the bench (`asr_ops.bench`) read
them here. One module a dialect; `clients` lists the test clients.
"""
